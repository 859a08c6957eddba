"""zenith.rotary: pairs of features of x are rotated by angles whose cosines and sines are given.

Operands: x, cos, sin. One result, with the elements of x rotated. For the pair (a, b) of features

    out[a] = x[a] cos[a] - x[b] sin[a]        out[b] = x[b] cos[b] + x[a] sin[b]

and features from `rotated` on are copied. Attributes:

    axes      sizes by name: features d, columns of the tables r, every other axis is shared: b, t, h, ...
    x         layout of x, e.g. "b t h d"; d is last
    out       layout of the result, with the axes of x, e.g. "b h t d"; absent, that of x
    table     layout of cos and sin, e.g. "t r" or "b t 1 r"; r is last, an axis that they lack is repeated
    rotated   how many features are rotated, an even number
    pairing   "half": pairs (i, i + rotated/2); "interleaved": pairs (2 i, 2 i + 1)

The tables have `rotated` columns, one a feature, or rotated/2, one a pair. (Su et al. 2021, RoFormer.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zenith_mlir.dialects.fields import field
from zenith_mlir.dialects.labelled import spread
from zenith_mlir.dialects.layout import Layout

if TYPE_CHECKING:
    import jax
    from jaxlib.mlir import ir

NAME = "zenith.rotary"
PAIRINGS = ("half", "interleaved")


@dataclass(frozen=True)
class RotarySpec:
    """What the attributes of a zenith.rotary say."""

    axes: dict[str, int]
    x: Layout
    table: Layout
    rotated: int
    pairing: str = "half"
    out: Layout | None = None

    def __post_init__(self) -> None:
        if not self.x.dims or self.x.dims[-1] != ("d",) or not self.table.dims or self.table.dims[-1] != ("r",):
            raise ValueError(f'{NAME}: x is laid out "{self.x}", cos and sin "{self.table}", expected d and r last')
        lacking = [axis for axis in (*self.x.axes, *self.table.axes) if axis not in self.axes]
        if lacking:
            raise ValueError(f"{NAME}: attribute axes lacks {', '.join(lacking)}")
        stray = [axis for axis in self.table.axes if axis not in (*self.x.axes, "r")]
        if stray:
            raise ValueError(f'{NAME}: the tables run over {", ".join(stray)}, which x, laid out "{self.x}", has not')
        if self.out is not None and (set(self.out.axes) != set(self.x.axes) or self.out.dims[-1:] != (("d",),)):
            raise ValueError(f'{NAME}: the result is laid out "{self.out}", expected the axes of x, "{self.x}", d last')
        if not 0 <= self.rotated <= self.axes["d"] or self.rotated % 2:
            raise ValueError(f"{NAME}: rotated is {self.rotated}, expected an even number up to {self.axes['d']}")
        if self.axes["r"] not in (self.rotated, self.rotated // 2):
            raise ValueError(
                f"{NAME}: the tables have {self.axes['r']} columns, expected {self.rotated} or {self.rotated // 2}"
            )

    def __hash__(self) -> int:
        return hash((*self.axes.items(), self.x, self.table, self.rotated, self.pairing))

    @property
    def shared(self) -> tuple[str, ...]:
        """The axes of x other than the features, major to minor."""
        return self.x.axes[:-1]

    @property
    def result(self) -> Layout:
        """The layout of the result."""
        return self.x if self.out is None else self.out

    def verify(self, shapes: Sequence[Sequence[int]]) -> None:
        """Check layouts against the shapes of x, cos, sin and the result.

        Raises: ValueError naming the operand, the shape its layout means and the shape it has.
        """
        if len(shapes) != 4:
            raise ValueError(f"{NAME} has {len(shapes) - 1} operands, expected x, cos and sin")
        layouts = (self.x, self.table, self.table, self.result)
        for name, layout, shape in zip(("x", "cos", "sin", "the result"), layouts, shapes, strict=True):
            expected = layout.shape(self.axes)
            if tuple(shape) != expected:
                raise ValueError(
                    f'{NAME}: {name} is laid out "{layout}" = {list(expected)}, but has shape {list(shape)}'
                )

    def to_attributes(self) -> dict[str, ir.Attribute]:
        """As attributes of a stablehlo.composite, in the current MLIR context."""
        from zenith_mlir.dialects.attributes import to_attribute

        facts: dict[str, Any] = {
            "axes": self.axes,
            "x": str(self.x),
            "table": str(self.table),
            "rotated": self.rotated,
            "pairing": self.pairing,
        }
        if self.out is not None:
            facts["out"] = str(self.out)
        return {name: to_attribute(fact) for name, fact in facts.items()}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> RotarySpec:
        """Read what `to_attributes` wrote, already turned into Python values."""
        return cls(
            axes=dict(field(NAME, attributes, "axes", dict)),
            x=Layout.parse(field(NAME, attributes, "x", str)),
            table=Layout.parse(field(NAME, attributes, "table", str)),
            rotated=field(NAME, attributes, "rotated", int),
            pairing=field(NAME, attributes, "pairing", str, PAIRINGS),
            out=Layout.parse(field(NAME, attributes, "out", str)) if "out" in attributes else None,
        )


def reference(spec: RotarySpec, x: jax.Array, cos: jax.Array, sin: jax.Array, *, dtype: Any = None) -> jax.Array:
    """The formula, plainly, in `dtype` (default: at least float32, rounded to the dtype of x)."""
    import jax.numpy as jnp

    compute = dtype or jnp.promote_types(x.dtype, jnp.float32)
    wide = x.reshape([spec.axes[axis] for axis in spec.x.axes]).astype(compute)
    pairs = spec.rotated // 2
    order = (*spec.shared, "r")

    def table(values: jax.Array) -> tuple[jax.Array, jax.Array]:
        spreaded = spread(values, spec.table, spec.axes, order).astype(compute)
        return (spreaded, spreaded) if spec.axes["r"] == pairs else _split(spec, spreaded)

    a, b = _split(spec, wide[..., : spec.rotated])
    (cos_a, cos_b), (sin_a, sin_b) = table(cos), table(sin)
    rotated = _join(spec, a * cos_a - b * sin_a, b * cos_b + a * sin_b)
    out = jnp.concatenate([rotated, wide[..., spec.rotated :]], axis=-1)
    moved = out.transpose([spec.x.axes.index(axis) for axis in spec.result.axes])
    return moved.reshape(spec.result.shape(spec.axes)).astype(dtype or x.dtype)


def _split(spec: RotarySpec, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first and the second of each pair."""
    pairs = spec.rotated // 2
    if spec.pairing == "half":
        return x[..., :pairs], x[..., pairs:]
    both = x.reshape(*x.shape[:-1], pairs, 2)
    return both[..., 0], both[..., 1]


def _join(spec: RotarySpec, a: jax.Array, b: jax.Array) -> jax.Array:
    """The inverse of `_split`."""
    import jax.numpy as jnp

    if spec.pairing == "half":
        return jnp.concatenate([a, b], axis=-1)
    return jnp.stack([a, b], axis=-1).reshape(*a.shape[:-1], spec.rotated)
