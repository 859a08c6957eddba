"""What zenith.layer_norm and zenith.rms_norm have in common, and their gradients: operands and attributes (`NormSpec`,
`NormVjpSpec`) and formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from zenith_mlir.dialects.flat_spec import FlatSpec

if TYPE_CHECKING:
    import jax

_T = TypeVar("_T")
_LIKE_WEIGHT = ("weight", "bias", "dweight", "dbias")


@dataclass(frozen=True)
class NormSpec(FlatSpec):
    """What the attributes of a norm say.

    Operands: x; the residual, the weight and the bias, each if there is one. Results: out, and with a residual the sum
    s. Attributes:

        epsilon   inside the root
        axes      how many trailing axes the means are over; weight and bias have these axes
        weight    there is a weight
        bias      there is a bias
        residual  there is a residual, which is added first
        offset    what is added to the weight: 1.0 for weights that are stored as distances from one

    Arithmetic is float32 at least, whatever the types of the operands, and each result is rounded to its type once. s
    is what is normalised: a narrower sum is rounded before, as it is stored. Roundings that a program has in between
    (of n to bfloat16 before the weight multiplies it) are not repeated.
    """

    CENTRED: ClassVar[bool]  # the mean is subtracted

    epsilon: float
    axes: int
    weight: bool = False
    bias: bool = False
    residual: bool = False
    offset: float = 0.0

    def __post_init__(self) -> None:
        self.check(self.axes >= 1, f"axes is {self.axes}, expected at least one trailing axis")
        self.check(self.weight or self.offset == 0, f"offset is {self.offset} and there is no weight to add it to")

    @property
    def operand_names(self) -> tuple[str, ...]:
        """What the operands are, in order."""
        return ("x", *(name for name in ("residual", "weight", "bias") if getattr(self, name)))

    @property
    def result_names(self) -> tuple[str, ...]:
        """What the results are, in order."""
        return ("out", *(("sum",) if self.residual else ()))

    def named(self, operands: Sequence[_T]) -> dict[str, _T]:
        """The operands by name."""
        return dict(zip(self.operand_names, operands, strict=True))

    def verify(self, shapes: Sequence[Sequence[int]], results: Sequence[Sequence[int]]) -> None:
        """Check the shapes of operands and results against each other.

        Raises: ValueError naming what does not fit, the shape expected and the shape it has.
        """
        names = self.operand_names + self.result_names
        found = self.shapes_by_name(names, [*shapes, *results])
        whole = found[names[0]]
        self.check(self.axes <= len(whole), f"axes is {self.axes}, and {names[0]} has {len(whole)}")
        weight = whole[len(whole) - self.axes :]
        self.check_shapes(found, {name: weight if name in _LIKE_WEIGHT else whole for name in names})


@dataclass(frozen=True)
class NormVjpSpec(NormSpec):
    """What the attributes of the gradient of a norm say.

    Operands: s, that is x or the sum; the weight if there is one; the cotangent of out, and that of s if
    `sum_cotangent`. Results: dx, which is that of the residual too; dweight and dbias, where wanted. It has the
    attributes of the norm, of which `bias` and `residual` are of no consequence, and

        sum_cotangent  s has users of its own
        dweight        the gradient of the weight is a result
        dbias          the gradient of the bias is a result
    """

    sum_cotangent: bool = False
    dweight: bool = False
    dbias: bool = False

    @property
    def operand_names(self) -> tuple[str, ...]:
        weight, total = (("weight",) if self.weight else ()), (("sum_cotangent",) if self.sum_cotangent else ())
        return ("s", *weight, "cotangent", *total)

    @property
    def result_names(self) -> tuple[str, ...]:
        return ("dx", *(name for name in ("dweight", "dbias") if getattr(self, name)))


def reference(spec: NormSpec, *operands: jax.Array, dtype: Any = None) -> Any:
    """The formula, plainly, in `dtype` (default: at least float32).

    Returns: out, in `dtype` or else that of x; with a residual out and the sum.
    """
    import jax.numpy as jnp

    named = spec.named(operands)
    x = named["x"]
    compute = dtype or jnp.promote_types(x.dtype, jnp.float32)
    s = x.astype(compute)
    if spec.residual:
        s = (s + named["residual"].astype(compute)).astype(dtype or x.dtype)
    out = normalised(spec, s.astype(compute)) * factor(spec, named, compute)
    if spec.bias:
        out = out + named["bias"].astype(compute)
    out = out.astype(dtype or x.dtype)
    return (out, s) if spec.residual else out


def reference_vjp(spec: NormVjpSpec, *operands: jax.Array, dtype: Any = None) -> list[jax.Array]:
    """The gradients by differentiating the formula, in `dtype` (default: at least float32).

    Results have `dtype`, or else that of s and of the weight (of s where there is none).
    """
    import jax
    import jax.numpy as jnp

    named = spec.named(operands)
    compute = dtype or jnp.promote_types(named["s"].dtype, jnp.float32)
    s, shape = named["s"].astype(compute), named["s"].shape[-spec.axes :]

    def norm(s: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
        return normalised(spec, s) * weight + bias

    weight = jnp.broadcast_to(factor(spec, named, compute), shape)
    _, pullback = jax.vjp(norm, s, weight, jnp.zeros(shape, compute))
    dx, dweight, dbias = pullback(named["cotangent"].astype(compute))
    if spec.sum_cotangent:
        dx = dx + named["sum_cotangent"].astype(compute)
    narrow = named.get("weight", named["s"]).dtype
    wanted = [(True, dx, named["s"].dtype), (spec.dweight, dweight, narrow), (spec.dbias, dbias, narrow)]
    return [value.astype(dtype or own) for want, value, own in wanted if want]


def normalised(spec: NormSpec, s: jax.Array) -> jax.Array:
    """s over the root of its mean square, after subtracting its mean where the spec says so."""
    import jax.numpy as jnp

    axes = tuple(range(-spec.axes, 0))
    if spec.CENTRED:
        s = s - s.mean(axes, keepdims=True)
    return s / jnp.sqrt(jnp.square(s).mean(axes, keepdims=True) + spec.epsilon)


def factor(spec: NormSpec, named: Mapping[str, jax.Array], dtype: Any) -> Any:
    """weight + offset, or 1."""
    import jax.numpy as jnp

    return named["weight"].astype(dtype) + spec.offset if spec.weight else jnp.ones((), dtype)
