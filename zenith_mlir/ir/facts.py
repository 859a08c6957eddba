"""Facts about values that matchers and canonicalization ask for: who defines them, their shape, whether they are a
splat.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxlib.mlir import ir

Number = int | float | bool
# The same elements, elsewhere or in another type.
SHAPE_OPS = ("stablehlo.broadcast_in_dim", "stablehlo.reshape", "stablehlo.transpose", "stablehlo.convert")


def defining_op(value: ir.Value) -> ir.Operation | None:
    """The operation whose result `value` is; None for block arguments."""
    owner = value.owner
    return None if isinstance(owner, ir.Block) else owner.operation


def producer(value: ir.Value) -> ir.Operation:
    """The operation whose result `value` is; the caller knows that it is no block argument."""
    op = defining_op(value)
    assert op is not None, f"{value} is a block argument"
    return op


def defined_by(value: ir.Value, name: str) -> ir.Operation | None:
    """The operation called `name` (e.g. "stablehlo.add") that defines `value`, if it is one."""
    op = defining_op(value)
    return op if op is not None and op.name == name else None


def shape(value: ir.Value) -> tuple[int, ...]:
    """The static shape of a ranked tensor value; dynamic dimensions are negative."""
    return tuple(ir.RankedTensorType(value.type).shape)


def element_type(value: ir.Value) -> ir.Type:
    return ir.RankedTensorType(value.type).element_type


def is_float(type_: ir.Type) -> bool:
    return isinstance(type_, ir.FloatType)


def is_float_convert(op: ir.Operation) -> bool:
    """Whether `op` converts between floats of at least 16 bits: the value stays the same number, but for rounding."""
    if op.name != "stablehlo.convert":
        return False
    return all(float_width(element_type(v)) >= 16 for v in (op.operands[0], op.results[0]))


def keeps_precision(op: ir.Operation) -> bool:
    """Whether a reduce_precision rounds to the format of its operand."""
    bits = [ir.IntegerAttr(op.attributes[name]).value for name in ("exponent_bits", "mantissa_bits")]
    return _FORMATS.get(str(element_type(op.operands[0]))) == tuple(bits)


_FORMATS = {"f16": (5, 10), "bf16": (8, 7), "f32": (8, 23), "f64": (11, 52)}


def float_width(type_: ir.Type) -> int:
    """Bits of a float element type; 0 for any other type."""
    return ir.FloatType(type_).width if is_float(type_) else 0


def has_static_shape(value: ir.Value) -> bool:
    type_ = value.type
    return isinstance(type_, ir.RankedTensorType) and type_.has_static_shape


def int_list(op: ir.Operation, name: str) -> list[int]:
    """A DenseI64Array attribute as a list; absent is empty."""
    return [int(x) for x in ir.DenseI64ArrayAttr(op.attributes[name])] if name in op.attributes else []


def scalar_of(attribute: ir.Attribute) -> Number | None:
    """The Python number held by a Float, Integer or Bool attribute."""
    if isinstance(attribute, ir.FloatAttr | ir.IntegerAttr | ir.BoolAttr):
        return attribute.value
    return None


def splat(value: ir.Value) -> Number | None:
    """The one number that fills a constant `value`; None if it is not a splat constant."""
    op = defined_by(value, "stablehlo.constant")
    # The bindings cannot read elements of types that Python has no number for.
    if op is None or not isinstance(element_type(value), ir.FloatType | ir.IntegerType):
        return None
    attribute = op.attributes["value"]
    if not isinstance(attribute, ir.DenseElementsAttr) or not attribute.is_splat:
        return None
    return scalar_of(attribute.get_splat_value())


def splat_attribute(type_: ir.Type, number: Number) -> ir.DenseElementsAttr:
    """A splat of the ranked tensor `type_`; `number` is rounded to its element type."""
    element = ir.RankedTensorType(type_).element_type
    if is_float(element):
        return ir.DenseElementsAttr.get_splat(type_, ir.FloatAttr.get(element, float(number)))
    # Attributes hold 64 signed bits: large unsigned numbers are passed by their bit pattern.
    bits = int(number) - 2**64 if number >= 2**63 else int(number)
    scalar = ir.IntegerAttr.get(element, bits)
    return ir.DenseElementsAttr.get_splat(type_, scalar)


def reduction(op: ir.Operation) -> str | None:
    """The name of the one binary operation that a stablehlo.reduce of one operand applies, e.g. "stablehlo.add"."""
    if op.name != "stablehlo.reduce" or len(op.operands) != 2:
        return None
    body = [inner.operation.name for inner in op.regions[0].blocks[0].operations]
    return body[0] if len(body) == 2 else None


def users(value: ir.Value) -> list[ir.Operation]:
    """Operations that use `value`, each once, terminators included."""
    seen: dict[ir.Operation, None] = {}
    for use in value.uses:
        seen.setdefault(use.owner.operation, None)
    return list(seen)


def blocks(op: ir.Operation) -> Iterator[ir.Block]:
    for region in op.regions:
        yield from region.blocks


def walk(op: ir.Operation) -> Iterator[ir.Operation]:
    """All operations below `op` in program order, parents first. Do not erase while walking: collect first."""
    for block in blocks(op):
        for child in block.operations:
            yield child.operation
            yield from walk(child.operation)


def walk_named(op: ir.Operation, *names: str) -> list[ir.Operation]:
    return [child for child in walk(op) if child.name in names]


def enclosing(op: ir.Operation, name: str) -> ir.Operation | None:
    """The closest ancestor of `op` called `name`."""
    parent: Any = op.parent
    while parent is not None and parent.operation.name != name:
        parent = parent.operation.parent
    return None if parent is None else parent.operation
