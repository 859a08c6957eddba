"""Python values as MLIR attributes and back: bool, int (i64), float (f64), str, lists and dictionaries of these."""

from __future__ import annotations

from typing import Any

from jaxlib.mlir import ir


def to_attribute(value: Any) -> ir.Attribute:
    """`value` as an attribute of the current context.

    Raises: TypeError for anything but bool, int, float, str, list, tuple and dict.
    """
    if isinstance(value, bool):
        return ir.BoolAttr.get(value)
    if isinstance(value, int):
        return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value)
    if isinstance(value, float):
        return ir.FloatAttr.get(ir.F64Type.get(), value)
    if isinstance(value, str):
        return ir.StringAttr.get(value)
    if isinstance(value, list | tuple):
        return ir.ArrayAttr.get([to_attribute(item) for item in value])
    if isinstance(value, dict):
        return ir.DictAttr.get({name: to_attribute(item) for name, item in value.items()})
    raise TypeError(f"no attribute for {type(value).__name__} {value!r}")


def from_attribute(attribute: ir.Attribute) -> Any:
    """The inverse of `to_attribute`; other attributes come back as they are."""
    if isinstance(attribute, ir.BoolAttr | ir.IntegerAttr | ir.FloatAttr | ir.StringAttr):
        return attribute.value
    if isinstance(attribute, ir.ArrayAttr):
        return [from_attribute(item) for item in attribute]
    if isinstance(attribute, ir.DictAttr):
        named = [attribute[i] for i in range(len(attribute))]
        return {item.name: from_attribute(item.attr) for item in named}
    return attribute
