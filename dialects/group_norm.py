"""zenith.group_norm: out = n (weight + offset) + bias, n = (x - mean x) / √(mean (x - mean x)² + epsilon).

The means are over any axes: GroupNorm, InstanceNorm, and layer norms over axes that are not the last. What x, weight
and bias run over is said by layouts (layout.py). Operands: x; the weight and the bias, each if it has a layout. One
result, laid out as x is. (Wu and He 2018, Ulyanov et al. 2016.)

    axes        name and size of every axis of x
    x           layout of x, e.g. "b y x (g c)"
    normalised  the axes that the means are over, e.g. "y x c"
    weight      layout of the weight, "" where there is none; it has axes of x
    bias        layout of the bias, "" where there is none
    epsilon     inside the root
    offset      what is added to the weight
    centred     whether the mean is subtracted

Arithmetic is float32 at least, and the result is rounded to its type once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from zenith_mlir.dialects.labelled import spread
from zenith_mlir.dialects.layout import Layout

if TYPE_CHECKING:
    import jax
    from jaxlib.mlir import ir

NAME = "zenith.group_norm"
_KINDS = {
    "axes": dict, "x": str, "normalised": str, "weight": str, "bias": str, "epsilon": float, "offset": float,
    "centred": bool,
}  # fmt: skip


@dataclass(frozen=True)
class GroupNormSpec:
    """What the attributes of a zenith.group_norm say."""

    OP: ClassVar[str] = NAME

    axes: dict[str, int]
    x: Layout
    normalised: tuple[str, ...]
    epsilon: float
    weight: Layout | None = None
    bias: Layout | None = None
    offset: float = 0.0
    centred: bool = True

    def __post_init__(self) -> None:
        lacking = [axis for axis in self.x.axes if axis not in self.axes]
        if lacking:
            raise ValueError(f"{NAME}: attribute axes lacks {', '.join(lacking)}")
        named = [*self.normalised, *(axis for layout in (self.weight, self.bias) if layout for axis in layout.axes)]
        stray = [axis for axis in named if axis not in self.x.axes]
        if stray or not self.normalised:
            raise ValueError(f'{NAME}: x, laid out "{self.x}", has no {", ".join(stray) or "axis that is normalised"}')
        if self.weight is None and self.offset:
            raise ValueError(f"{NAME}: offset is {self.offset} and there is no weight to add it to")

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Those of the operands."""
        return tuple(layout for layout in (self.x, self.weight, self.bias) if layout is not None)

    def verify(self, shapes: Sequence[Sequence[int]], results: Sequence[Sequence[int]]) -> None:
        """Check layouts against the shapes of operands and results.

        Raises: ValueError naming what does not fit, the shape that its layout means and the shape it has.
        """
        layouts = (*self.layouts, self.x)
        found = [*shapes, *results]
        if len(found) != len(layouts):
            raise ValueError(f"{NAME}: there are {len(found)} operands and results, expected {len(layouts)}")
        for layout, own in zip(layouts, found, strict=True):
            if tuple(own) != layout.shape(self.axes):
                raise ValueError(
                    f'{NAME}: the layout "{layout}" means {list(layout.shape(self.axes))}, and the shape is {list(own)}'
                )

    def to_attributes(self) -> dict[str, ir.Attribute]:
        """As attributes of a stablehlo.composite, in the current MLIR context."""
        from zenith_mlir.dialects.attributes import to_attribute

        facts: dict[str, Any] = {
            "axes": self.axes,
            "x": str(self.x),
            "normalised": " ".join(self.normalised),
            "weight": "" if self.weight is None else str(self.weight),
            "bias": "" if self.bias is None else str(self.bias),
            "epsilon": self.epsilon,
            "offset": self.offset,
            "centred": self.centred,
        }
        return {name: to_attribute(fact) for name, fact in facts.items()}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> GroupNormSpec:
        """Read what `to_attributes` wrote, already turned into Python values.

        Raises: ValueError naming an attribute that is missing or is no such thing.
        """
        for name, kind in _KINDS.items():
            if not isinstance(attributes.get(name), kind):
                raise ValueError(f"{NAME}: attribute {name} is {attributes.get(name)!r}, expected a {kind.__name__}")
        weight, bias = (Layout.parse(attributes[name]) if attributes[name] else None for name in ("weight", "bias"))
        return cls(
            axes=dict(attributes["axes"]),
            x=Layout.parse(attributes["x"]),
            normalised=tuple(attributes["normalised"].split()),
            epsilon=attributes["epsilon"],
            weight=weight,
            bias=bias,
            offset=attributes["offset"],
            centred=attributes["centred"],
        )


def reference(spec: GroupNormSpec, x: jax.Array, *vectors: jax.Array, dtype: Any = None) -> jax.Array:
    """The formula, plainly, in `dtype` (default: at least float32, rounded to the dtype of x)."""
    import jax.numpy as jnp

    compute = dtype or jnp.promote_types(x.dtype, jnp.float32)
    order = spec.x.axes
    wide = spread(x, spec.x, spec.axes, order).astype(compute)
    along = tuple(order.index(axis) for axis in spec.normalised)
    centre = wide - wide.mean(along, keepdims=True) if spec.centred else wide
    out = centre / jnp.sqrt(jnp.square(centre).mean(along, keepdims=True) + spec.epsilon)
    rest = [spread(v, layout, spec.axes, order) for v, layout in zip(vectors, spec.layouts[1:], strict=True)]
    if spec.weight is not None:
        out = out * (rest.pop(0).astype(compute) + spec.offset)
    if spec.bias is not None:
        out = out + rest.pop(0).astype(compute)
    return out.reshape(x.shape).astype(dtype or x.dtype)
