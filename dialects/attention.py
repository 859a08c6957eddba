"""zenith.attention: out = softmax(steps(q kᵀ)) v.

Roles: 0 q, 1 k, 2 v, then modifiers (biases, masks) that steps name by number. One result, or with `residuals` three:
out, and what the backward (attention_vjp.py) needs of each row of logits in float32, its maximum m and its sum
Σ exp(x - m). Every operand keeps the layout that the program gave it; the attributes say what its dimensions are:

    sources       for each role the operand that plays it; one operand may play several (keys that are the values)
    axes          sizes by name: rows t, columns s, contracted d (d1, ... if several), value features e; every other
                  axis is parallel: b, h, ... are shared by q and k or v, g, ... belong to q alone (grouped heads)
    q, k, v, out  layouts, e.g. q = "b t (h g) d", k = "b s h d"; an axis that an operand lacks is repeated
    modifiers     layouts of the further roles
    steps         what happens to the logits x, in order (see `STEPS`), and after the softmax to the probabilities
    escapes       the logits or probabilities have other users, so fusing does not remove them
    residuals     there are results for the maximum and the sum, laid out `rows`: the parallel axes in order, then t

    scale, causal, softcap  the same facts for readers, where they hold

Semantics (`reference`): x[.., t, s] = sum_d q[.., t, d] k[.., s, d]; x = steps(x); p = softmax over s; p = post
steps(p); out[.., t, e] = sum_s p[.., t, s] v[.., s, e].  (Vaswani et al. 2017, section 3.2.1.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from zenith_mlir.dialects.fields import field
from zenith_mlir.dialects.labelled import einsum, plain, spread
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.dialects.roles import RoleSpec

if TYPE_CHECKING:
    import jax
    from jaxlib.mlir import ir

NAME = "zenith.attention"

# kind -> fields that it takes, and what the logits x or the probabilities p become. `value` is a number, `operand` the
# number of a role m (3 is the first modifier), `low`/`high` bound column - row (absent: unbounded), `negated` reads a
# boolean operand inverted.
STEPS: dict[str, tuple[tuple[str, ...], str]] = {
    "scale": (("value",), "x * value"),
    "offset": (("value",), "x + value"),
    "multiply": (("operand",), "x * m"),
    "divide": (("operand",), "x / m"),
    "add": (("operand",), "x + m"),
    "subtract": (("operand",), "x - m"),
    "tanh": ((), "tanh(x)"),
    "maximum": (("value",), "max(x, value)"),
    "minimum": (("value",), "min(x, value)"),
    "select": (("operand", "negated", "value"), "m ? x : value"),
    "band": (("low", "high", "value"), "low <= s - t <= high ? x : value"),
    "band_add": (("low", "high", "value"), "x + (low <= s - t <= high ? 0 : value)"),
    "sink": (("operand",), "one more logit m in the row's sum, and in nothing else"),
    "post_scale": (("value",), "p * value"),
    "post_multiply": (("operand",), "p * m"),
    "post_select": (("operand", "negated", "value"), "m ? p : value"),
}
STEP_FIELDS = {kind: fields for kind, (fields, _) in STEPS.items()}


@dataclass(frozen=True)
class Step:
    """One elementwise operation on the logits, or (`post_*`) on the probabilities; `STEP_FIELDS` says what each kind
    takes.
    """

    kind: str
    value: float | None = None
    operand: int | None = None
    negated: bool = False
    low: int | None = None
    high: int | None = None

    @property
    def is_post(self) -> bool:
        """Whether it applies to the probabilities."""
        return self.kind.startswith("post_")

    @property
    def is_sink(self) -> bool:
        return self.kind == "sink"


@dataclass(frozen=True)
class AttentionSpec(RoleSpec):
    """What the attributes of a zenith.attention say."""

    OP: ClassVar[str] = NAME
    ROLES: ClassVar[tuple[str, ...]] = ("q", "k", "v")

    axes: dict[str, int]
    q: Layout
    k: Layout
    v: Layout
    out: Layout
    modifiers: tuple[Layout, ...] = ()
    steps: tuple[Step, ...] = ()
    escapes: bool = False
    sources: tuple[int, ...] = ()
    residuals: bool = False

    def __hash__(self) -> int:
        own = (*self.axes.items(), *self.role_layouts, self.out, *self.steps, *self.sources)
        return hash((own, self.escapes, self.residuals))

    @property
    def contracted(self) -> tuple[str, ...]:
        return tuple(a for a in self.axes if a == "d" or (a[0] == "d" and a[1:].isdigit()))

    @property
    def parallel(self) -> tuple[str, ...]:
        """Axes over which nothing is reduced and nothing is shared between elements of the result, row axis
        excluded.
        """
        return tuple(a for a in self.axes if a not in ("t", "s", "e") and a not in self.contracted)

    @property
    def rows(self) -> Layout:
        """The layout of the maximum and the sum."""
        return plain([*self.parallel, *(axis for axis in ("t",) if axis in self.axes)])

    @property
    def logit_axes(self) -> tuple[str, ...]:
        """The parallel axes, t and s: what logits and probabilities run over."""
        return (*self.rows.axes, "s")

    def size(self, axis: str) -> int:
        """The size of an axis; 1 for one that the program does not have (a single query row, one value feature)."""
        return self.axes.get(axis, 1)

    @property
    def is_causal(self) -> bool:
        """Whether some step hides every column right of the diagonal."""
        return any(
            step.kind in ("band", "band_add") and step.high is not None and step.high <= 0 for step in self.steps
        )

    @property
    def scale(self) -> float | None:
        """The factor on the bare product q kᵀ; None if later steps make a single factor meaningless."""
        factor = 1.0
        for step in self.steps:
            if step.kind != "scale":
                break
            factor *= step.value or 0.0
        return factor

    @property
    def softcap(self) -> float | None:
        """c of c * tanh(x / c), if the steps are that."""
        kinds = [step.kind for step in self.steps]
        if "tanh" not in kinds:
            return None
        after = kinds.index("tanh") + 1
        return self.steps[after].value if after < len(kinds) and kinds[after] == "scale" else 1.0

    def attributes(self) -> dict[str, ir.Attribute]:
        """As attributes of a stablehlo.composite, in the current MLIR context."""
        from zenith_mlir.dialects.attributes import to_attribute

        facts: dict[str, Any] = {
            "axes": self.axes,
            "q": str(self.q),
            "k": str(self.k),
            "v": str(self.v),
            "out": str(self.out),
            "sources": list(self.sources),
            "modifiers": [str(layout) for layout in self.modifiers],
            "steps": [_step_fields(step) for step in self.steps],
            "escapes": self.escapes,
            "residuals": self.residuals,
            "causal": self.is_causal,
            "scale": self.scale,
            "softcap": self.softcap,
        }
        return {name: to_attribute(fact) for name, fact in facts.items() if fact is not None}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> AttentionSpec:
        """Read what `attributes` wrote, already turned into Python values.

        Raises: ValueError naming what is missing or is no such thing.
        """
        escapes, residuals = (field(NAME, attributes, name, bool) for name in ("escapes", "residuals"))
        return cls(**cls.read(attributes, Step, STEP_FIELDS), escapes=escapes, residuals=residuals)


def _step_fields(step: Step) -> dict[str, Any]:
    fields = {"kind": step.kind, **{name: getattr(step, name) for name in STEP_FIELDS[step.kind]}}
    return {name: value for name, value in fields.items() if value is not None and value is not False}


def reference(spec: AttentionSpec, *operands: jax.Array, dtype: Any = None, exact: bool = True) -> Any:
    """The formula, plainly, in `dtype` (default: at least float32); unless `exact`, narrow operands are multiplied as
    they are, the values by probabilities that are rounded to their dtype.

    Shapes are those of the operands that `spec` describes; see the head of this file for the mathematics.

    Returns: out, in `dtype` or else the dtype of v; where `spec.residuals`, out, maximum and sum.
    """
    import jax.numpy as jnp

    q, k, v, *modifiers = spec.roles(operands)
    compute = dtype or jnp.promote_types(q.dtype, jnp.float32)
    order = spec.logit_axes
    x = einsum([(q, spec.q), (k, spec.k)], spec.axes, order, compute, exact)
    wide = [spread(m, layout, spec.axes, order) for m, layout in zip(modifiers, spec.modifiers, strict=True)]
    p, maximum, total = probabilities(spec, x, wide)
    weights = p if exact else p.astype(v.dtype)
    flat = einsum([(weights, plain(order)), (v, spec.v)], spec.axes, list(spec.out.axes), compute, exact)
    result = flat.reshape(spec.out.shape(spec.axes)).astype(v.dtype if dtype is None else dtype)
    if not spec.residuals:
        return result
    rows = spec.rows.shape(spec.axes)
    return result, maximum.reshape(rows), total.reshape(rows)


def probabilities(spec: AttentionSpec, x: Any, modifiers: Sequence[Any]) -> tuple[Any, Any, Any]:
    """What multiplies the values, given q kᵀ and modifiers over `spec.logit_axes`; the maximum and the sum of each
    row.
    """
    import jax.numpy as jnp

    offset = _offsets(spec)
    for step in spec.steps:
        if not step.is_post and not step.is_sink:
            x = _apply(step, x, modifiers, offset)
    dim = spec.logit_axes.index("s")
    named = [step.operand for step in spec.steps if step.is_sink and step.operand is not None]
    sinks = [modifiers[operand - 3].astype(x.dtype) for operand in named]
    top = x.max(axis=dim, keepdims=True)
    for sink in sinks:
        top = jnp.maximum(top, sink)
    weights = jnp.exp(x - top)
    total = weights.sum(axis=dim, keepdims=True) + sum(jnp.exp(sink - top) for sink in sinks)
    p = weights / total
    for step in spec.steps:
        if step.is_post:
            p = _apply(step, p, modifiers, offset)
    return p, top, total


def _offsets(spec: AttentionSpec) -> Any:
    """column - row, over `spec.logit_axes`."""
    import jax.numpy as jnp

    def index(name: str) -> Any:
        shape = [-1 if axis == name else 1 for axis in spec.logit_axes]
        return jnp.arange(spec.size(name)).reshape(shape) if name in spec.axes else 0

    return index("s") - index("t")


def _apply(step: Step, x: Any, modifiers: Sequence[Any], offset: Any) -> Any:
    import jax.numpy as jnp

    number = 0.0 if step.value is None else step.value
    if step.kind in ("band", "band_add"):
        inside = jnp.ones(offset.shape, bool)
        inside &= True if step.low is None else offset >= step.low
        inside &= True if step.high is None else offset <= step.high
        return jnp.where(inside, x, number) if step.kind == "band" else x + jnp.where(inside, x.dtype.type(0), number)
    if step.operand is None:
        return _WITH_NUMBER[step.kind.removeprefix("post_")](x, number)
    m = modifiers[step.operand - 3]
    if m.dtype == bool:
        return jnp.where(m != step.negated, x, number)
    return _WITH_OPERAND[step.kind.removeprefix("post_")](x, m.astype(x.dtype))


def _tanh(x: Any) -> Any:
    import jax.numpy as jnp

    return jnp.tanh(x)


_WITH_OPERAND: dict[str, Callable[[Any, Any], Any]] = {
    "multiply": lambda x, m: x * m,
    "divide": lambda x, m: x / m,
    "add": lambda x, m: x + m,
    "subtract": lambda x, m: x - m,
}
_WITH_NUMBER: dict[str, Callable[[Any, float], Any]] = {
    "scale": lambda x, number: x * number,
    "offset": lambda x, number: x + number,
    "tanh": lambda x, number: _tanh(x),
    "maximum": lambda x, number: x.clip(min=number),
    "minimum": lambda x, number: x.clip(max=number),
}
