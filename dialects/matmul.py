"""zenith.matmul: out = steps(lhs rhs), a product of two operands contracted over one or more axes, and what follows it.

Roles: 0 lhs, 1 rhs, then modifiers (a bias, a residual, a gate) that steps name by number. One result. Every operand
keeps the layout that the program gave it; the attributes say what its dimensions are:

    sources        for each role the operand that plays it; one operand may play several
    axes           sizes by name
    lhs, rhs, out  layouts, e.g. lhs = "b t k", rhs = "k (h d)", out = "b t h d". Axes of both operands are parallel
                   where the result has them and else summed over; those of one operand alone are rows (lhs) or columns
                   (rhs)
    modifiers      layouts of the further roles; an axis that a modifier lacks is repeated
    steps          what happens to the sums x, in order (see `STEPS`)

Semantics (`reference`): x = Σ lhs rhs over the summed axes, in float32 at least; x = steps(x); out = x in the result's
element type. A step "round" stands for a program that rounds on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from zenith_mlir.dialects.labelled import einsum, spread
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.dialects.roles import RoleSpec

if TYPE_CHECKING:
    import jax
    from jaxlib.mlir import ir

NAME = "zenith.matmul"

# kind -> fields that it takes, and what x becomes. `value` is a number, `operand` the number of a role m (2 is the
# first modifier), `dtype` the name of an element type.
STEPS: dict[str, tuple[tuple[str, ...], str]] = {
    "scale": (("value",), "x * value"),
    "offset": (("value",), "x + value"),
    "multiply": (("operand",), "x * m"),
    "add": (("operand",), "x + m"),
    "relu": ((), "max(x, 0)"),
    "tanh": ((), "tanh(x)"),
    "sigmoid": ((), "1 / (1 + exp(-x))"),
    "silu": ((), "x / (1 + exp(-x))"),
    "gelu": ((), "x (1 + erf(x / √2)) / 2"),
    "gelu_tanh": ((), "x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2"),
    "round": (("dtype",), "x rounded to bfloat16 or float16"),
}
STEP_FIELDS = {kind: fields for kind, (fields, _) in STEPS.items()}
_FIRST_MODIFIER = 2


@dataclass(frozen=True)
class Step:
    """One elementwise operation on the sums; `STEP_FIELDS` says what each kind takes."""

    kind: str
    value: float | None = None
    operand: int | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in STEP_FIELDS:
            raise ValueError(f"{NAME} has no step {self.kind!r}; there are {', '.join(STEP_FIELDS)}")
        for field in ("value", "operand", "dtype"):
            if (getattr(self, field) is None) == (field in STEP_FIELDS[self.kind]):
                takes = " and ".join(STEP_FIELDS[self.kind]) or "nothing"
                raise ValueError(f"{NAME}: the step {self.kind!r} takes {takes}, got {field}={getattr(self, field)!r}")
        if self.dtype not in (None, "bfloat16", "float16"):
            raise ValueError(f"{NAME}: a step rounds to bfloat16 or float16, not to {self.dtype}")


@dataclass(frozen=True)
class MatmulSpec(RoleSpec):
    """What the attributes of a zenith.matmul say."""

    OP: ClassVar[str] = NAME
    ROLES: ClassVar[tuple[str, ...]] = ("lhs", "rhs")

    axes: dict[str, int]
    lhs: Layout
    rhs: Layout
    out: Layout
    modifiers: tuple[Layout, ...] = ()
    steps: tuple[Step, ...] = ()
    sources: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, layout in zip((*self.role_names, "out"), (*self.role_layouts, self.out), strict=True):
            unknown = sorted(set(layout.axes) - set(self.axes))
            if unknown:
                raise ValueError(f'{NAME}: {name} = "{layout}" has axes {unknown} whose sizes are not given')
        one_side = [axis for axis in (set(self.lhs.axes) ^ set(self.rhs.axes)) if axis not in self.out.axes]
        if one_side:
            raise ValueError(f"{NAME}: the axes {sorted(one_side)} are summed over but belong to one operand alone")
        made_up = sorted(set(self.out.axes) - set(self.lhs.axes) - set(self.rhs.axes))
        if made_up:
            raise ValueError(f"{NAME}: the result has axes {made_up} that no operand has")
        for i, layout in enumerate(self.modifiers):
            if not set(layout.axes) <= set(self.out.axes):
                raise ValueError(f'{NAME}: modifier {i} = "{layout}" has axes that the result "{self.out}" lacks')
        for step in self.steps:
            if step.operand is not None and not 0 <= step.operand - _FIRST_MODIFIER < len(self.modifiers):
                raise ValueError(f"{NAME}: step {step.kind!r} names operand {step.operand}, roles end before it")

    def __hash__(self) -> int:
        return hash((*self.axes.items(), self.lhs, self.rhs, self.out, self.modifiers, self.steps, self.sources))

    @property
    def parallel(self) -> tuple[str, ...]:
        """Axes of both operands and the result."""
        return tuple(axis for axis in self.out.axes if axis in self.lhs.axes and axis in self.rhs.axes)

    @property
    def rows(self) -> tuple[str, ...]:
        """Axes of lhs and the result, in the order of the result."""
        return tuple(axis for axis in self.out.axes if axis not in self.rhs.axes)

    @property
    def columns(self) -> tuple[str, ...]:
        """Axes of rhs and the result, in the order of the result."""
        return tuple(axis for axis in self.out.axes if axis not in self.lhs.axes)

    @property
    def contracted(self) -> tuple[str, ...]:
        """Axes that are summed over, in the order of rhs."""
        return tuple(axis for axis in self.rhs.axes if axis not in self.out.axes)

    def size(self, axes: Sequence[str]) -> int:
        """How many places `axes` have together."""
        size = 1
        for axis in axes:
            size *= self.axes[axis]
        return size

    def attributes(self) -> dict[str, ir.Attribute]:
        """As attributes of a stablehlo.composite, in the current MLIR context."""
        from zenith_mlir.dialects.attributes import to_attribute

        facts: dict[str, Any] = {
            "axes": self.axes,
            "lhs": str(self.lhs),
            "rhs": str(self.rhs),
            "out": str(self.out),
            "sources": list(self.sources),
            "modifiers": [str(layout) for layout in self.modifiers],
            "steps": [
                {"kind": step.kind, **{name: getattr(step, name) for name in STEP_FIELDS[step.kind]}}
                for step in self.steps
            ],
        }
        return {name: to_attribute(fact) for name, fact in facts.items()}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> MatmulSpec:
        """Read what `attributes` wrote, already turned into Python values.

        Raises: ValueError naming what is missing or does not fit together.
        """
        return cls(**cls.read(attributes, Step, STEP_FIELDS))


def reference(
    spec: MatmulSpec, *operands: jax.Array, out_dtype: Any = None, dtype: Any = None, exact: bool = True
) -> Any:
    """The formula, plainly, in `dtype` (default: at least float32); unless `exact`, narrow operands are multiplied as
    they are.

    Returns: out, in `out_dtype`, by default the dtype of lhs, or in `dtype` where that is given.
    """
    import jax.numpy as jnp

    lhs, rhs, *modifiers = spec.roles(operands)
    compute = dtype or jnp.promote_types(jnp.promote_types(lhs.dtype, rhs.dtype), jnp.float32)
    x = einsum([(lhs, spec.lhs), (rhs, spec.rhs)], spec.axes, spec.out.axes, compute, exact)
    return follow(spec, x, modifiers).astype(dtype or out_dtype or lhs.dtype)


def follow(spec: MatmulSpec, sums: jax.Array, modifiers: Sequence[jax.Array]) -> jax.Array:
    """The steps on the bare product `sums`, laid out as the result is, in its dtype or at least float32."""
    import jax.numpy as jnp

    order = spec.out.axes
    compute = jnp.promote_types(sums.dtype, jnp.float32)
    x = sums.reshape([spec.axes[axis] for axis in order]).astype(compute)
    wide = [
        spread(m, layout, spec.axes, order).astype(compute) for m, layout in zip(modifiers, spec.modifiers, strict=True)
    ]
    for step in spec.steps:
        x = _STEPS[step.kind](x, step, None if step.operand is None else wide[step.operand - _FIRST_MODIFIER])
    return x.reshape(spec.out.shape(spec.axes))


def _nn(name: str, **options: Any) -> Callable[[Any, Step, Any], Any]:
    def apply(x: Any, step: Step, m: Any) -> Any:
        import jax

        return getattr(jax.nn, name)(x, **options)

    return apply


_STEPS: dict[str, Callable[[Any, Step, Any], Any]] = {
    "scale": lambda x, step, m: x * step.value,
    "offset": lambda x, step, m: x + step.value,
    "multiply": lambda x, step, m: x * m,
    "add": lambda x, step, m: x + m,
    "relu": _nn("relu"),
    "tanh": _nn("tanh"),
    "sigmoid": _nn("sigmoid"),
    "silu": _nn("silu"),
    "gelu": _nn("gelu", approximate=False),
    "gelu_tanh": _nn("gelu", approximate=True),
    "round": lambda x, step, m: x.astype(step.dtype).astype(x.dtype),
}
