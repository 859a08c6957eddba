"""zenith.attention_vjp: gradients of zenith.attention.

Operands: those of the attention in its order; with `residuals` its results out, maximum and sum; then the cotangent of
out. Results: one gradient for each of `gradients`.

Attributes: those of the attention, and

    cotangent  layout of the cotangent; an axis of out that it lacks is repeated
    gradients  for each result the role that it is the gradient of, its layout and a factor

With p the probabilities before the post steps, f the post steps, g the steps on the logits x₀ = q kᵀ, x = g(x₀) and do
the cotangent:

    dv = f(p)ᵀ do      dp = f'(p) ∘ (do vᵀ)      dx = p ∘ (dp - Σ_s p ∘ dp)      dx₀ = g'(x₀) ∘ dx
    dq = dx₀ k         dk = dx₀ᵀ q               dm = dxᵢ ∘ ∂stepᵢ/∂m for the step i that reads the modifier m

(Dao et al. 2022, FlashAttention, appendix B.2.) Result j is factor · gradient, summed over every axis that its layout
lacks: a layout with a group axis that the keys lack keeps the gradient of each group apart.

The backward needs p = exp(x - maximum) / sum and, where post steps are linear, Σ_s p ∘ dp = Σ_e do ∘ out. Maximum and
sum are kept apart, not as a log-sum-exp, because of rows that are masked as a whole: with a fill of -1e9 the logarithm
of the sum is lost next to the maximum, and p would be 1 where it is 1/S. An implementation may put any pair there for
which p comes out right: (log-sum-exp, 1) is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from zenith_mlir.dialects.attention import AttentionSpec, probabilities
from zenith_mlir.dialects.fields import field
from zenith_mlir.dialects.labelled import einsum, plain, spread
from zenith_mlir.dialects.layout import Layout

if TYPE_CHECKING:
    import jax
    from jaxlib.mlir import ir

NAME = "zenith.attention_vjp"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Gradient:
    """A result: factor times the gradient of what plays `role`, summed over the axes that `layout` lacks."""

    role: int
    layout: Layout
    factor: float = 1.0


@dataclass(frozen=True)
class AttentionVjpSpec:
    """What the attributes of a zenith.attention_vjp say."""

    attention: AttentionSpec
    cotangent: Layout
    gradients: tuple[Gradient, ...]

    @property
    def residuals(self) -> bool:
        """Whether out, maximum and sum are among the operands."""
        return self.attention.residuals

    def split(self, operands: Sequence[_T]) -> tuple[list[_T], list[_T], _T]:
        """The roles of the attention; out, maximum and sum (or nothing); the cotangent."""
        count = 1 + max(self.attention.sources)
        return self.attention.roles(operands[:count]), list(operands[count:-1]), operands[-1]

    def axes_of(self, role: int) -> tuple[str, ...]:
        """All axes that the gradient of a role could vary along."""
        spec, rows = self.attention, self.attention.rows.axes
        own = {0: (*rows, *spec.contracted), 1: (*spec.parallel, "s", *spec.contracted), 2: (*spec.parallel, "s", "e")}
        axes = own.get(role, spec.logit_axes)
        return tuple(axis for axis in axes if axis in spec.axes)

    def verify(self, shapes: Sequence[Sequence[int]], results: Sequence[Sequence[int]]) -> None:
        """Check layouts against the shapes of operands and results.

        Raises: ValueError naming what does not fit, the shape its layout means and the shape it has.
        """
        spec = self.attention
        count = 1 + max(spec.sources)
        out = spec.out.shape(spec.axes)
        spec.verify(shapes[:count], out)
        rows = spec.rows.shape(spec.axes)
        expected = [out, rows, rows] if self.residuals else []
        expected.append(self.cotangent.shape(spec.axes))
        expected += [gradient.layout.shape(spec.axes) for gradient in self.gradients]
        found = [tuple(shape) for shape in (*shapes[count:], *results)]
        if found != expected:
            raise ValueError(f"{NAME}: residuals, cotangent and gradients have shapes {found}, expected {expected}")

    def attributes(self) -> dict[str, ir.Attribute]:
        """As attributes of a stablehlo.composite, in the current MLIR context."""
        from zenith_mlir.dialects.attributes import to_attribute

        gradients = [{"role": g.role, "layout": str(g.layout), "factor": g.factor} for g in self.gradients]
        own = {"cotangent": str(self.cotangent), "gradients": gradients}
        return self.attention.attributes() | {name: to_attribute(fact) for name, fact in own.items()}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> AttentionVjpSpec:
        """Read what `attributes` wrote, already turned into Python values.

        Raises: ValueError naming what is missing or is no such thing.
        """
        gradients = [
            Gradient(
                field(NAME, g, "role", int),
                Layout.parse(field(NAME, g, "layout", str)),
                field(NAME, g, "factor", float),
            )
            for g in field(NAME, attributes, "gradients", list)
        ]
        spec = AttentionSpec.from_attributes(attributes)
        return cls(spec, Layout.parse(field(NAME, attributes, "cotangent", str)), tuple(gradients))


def reference(spec: AttentionVjpSpec, *operands: jax.Array, dtype: Any = None, exact: bool = True) -> list[jax.Array]:
    """The gradients by differentiating the formula of the attention, in `dtype` (default: at least float32); unless
    `exact`, narrow operands are multiplied as they are, and by what is rounded to their dtype.

    Residuals are not looked at. Results have `dtype`, or else that of the role.
    """
    import jax
    import jax.numpy as jnp

    roles, _, cotangent = spec.split(operands)
    attention = spec.attention
    sizes, order = attention.axes, attention.logit_axes
    compute = dtype or jnp.promote_types(roles[0].dtype, jnp.float32)
    wanted = sorted({gradient.role for gradient in spec.gradients})
    out_axes = list(attention.out.axes)

    def wide(role: int) -> jax.Array:
        """What plays `role`, repeated over all axes that its gradient may keep apart."""
        axes = spec.axes_of(role)
        value = spread(roles[role], attention.role_layouts[role], sizes, axes)
        return jnp.broadcast_to(value, [sizes[axis] for axis in axes])

    def attend(differentiated: list[jax.Array]) -> jax.Array:
        values = {role: wide(role) for role in range(len(roles))} | dict(zip(wanted, differentiated, strict=True))
        named = {role: (value, plain(spec.axes_of(role))) for role, value in values.items()}
        x = einsum([named[0], named[1]], sizes, order, compute, exact)
        modifiers = [spread(*named[role], sizes, order) for role in range(3, len(roles))]
        p, _, _ = probabilities(attention, x, modifiers)
        weights = p if exact else p.astype(named[2][0].dtype)
        return einsum([(weights, plain(order)), named[2]], sizes, out_axes, compute, exact)

    _, pullback = jax.vjp(attend, [wide(role).astype(compute if exact else roles[role].dtype) for role in wanted])
    (found,) = pullback(einsum([(cotangent, spec.cotangent)], sizes, out_axes, compute))
    gradients = dict(zip(wanted, found, strict=True))

    def result(gradient: Gradient) -> jax.Array:
        own = (gradients[gradient.role], plain(spec.axes_of(gradient.role)))
        flat = einsum([own], sizes, gradient.layout.axes, compute) * gradient.factor
        return flat.reshape(gradient.layout.shape(sizes)).astype(dtype or roles[gradient.role].dtype)

    return [result(gradient) for gradient in spec.gradients]
