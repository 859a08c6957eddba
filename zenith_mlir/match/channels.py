"""Values that vary along one dimension only, as vectors: what a per-channel scale or shift is before it is spread out.

A program may spread a vector first and compute with it afterwards (rsqrt of a broadcast variance). Such elementwise
computations are repeated on the vector.
"""

from __future__ import annotations

from jaxlib.mlir import ir

from zenith_mlir.canonical import build
from zenith_mlir.ir.facts import defining_op, element_type, has_static_shape, int_list, is_float_convert, shape, splat

_MAX_DEPTH = 16
_ELEMENTWISE = frozenset(
    f"stablehlo.{name}"
    for name in (
        "add", "subtract", "multiply", "divide", "negate", "abs", "sqrt", "rsqrt", "maximum", "minimum", "power",
        "exponential",
    )
)  # fmt: skip


def is_channel(value: ir.Value, dim: int, depth: int = 0) -> bool:
    """Whether `value` varies along its dimension `dim` at most."""
    if not has_static_shape(value):
        return False
    if splat(value) is not None or all(size == 1 for i, size in enumerate(shape(value)) if i != dim):
        return True
    op = defining_op(value)
    if op is None or depth > _MAX_DEPTH:
        return False
    if op.name == "stablehlo.broadcast_in_dim":
        places = int_list(op, "broadcast_dimensions")
        sizes = shape(op.operands[0])
        return all(size == 1 for place, size in zip(places, sizes, strict=True) if place != dim)
    if op.name in _ELEMENTWISE or is_float_convert(op):
        return all(is_channel(operand, dim, depth + 1) for operand in op.operands)
    return False


def channel_vector(value: ir.Value, dim: int) -> ir.Value:
    """`value`, which varies along `dim` at most, as a vector, computed at the insertion point."""
    size = shape(value)[dim]
    type_ = build.tensor([size], element_type(value))
    number = splat(value)
    if number is not None:
        return build.splat_constant(type_, number)
    if all(n == 1 for i, n in enumerate(shape(value)) if i != dim):
        return _reshaped(value, type_)
    op = defining_op(value)
    assert op is not None, f"{value} varies along other dimensions than {dim}"
    if op.name == "stablehlo.broadcast_in_dim":
        source, places = op.operands[0], int_list(op, "broadcast_dimensions")
        if dim in places and shape(source)[places.index(dim)] == size:
            return _reshaped(source, type_)
        scalar = _reshaped(source, build.tensor([], element_type(source)))
        return build.broadcast_in_dim(scalar, [], type_)
    operands = [channel_vector(operand, dim) for operand in op.operands]
    if is_float_convert(op):
        return build.convert(operands[0], element_type(value))
    return build.elementwise(op.name.removeprefix("stablehlo."), *operands)


def _reshaped(value: ir.Value, type_: ir.RankedTensorType) -> ir.Value:
    return value if value.type == type_ else build.reshape(value, type_)
