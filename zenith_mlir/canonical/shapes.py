"""Chains of broadcast, reshape, transpose, convert, slice and iota become one operation or none."""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir

from zenith_mlir.canonical import build
from zenith_mlir.ir.facts import defined_by, defining_op, element_type, has_static_shape, int_list, is_float, shape

Values = Sequence[ir.Value] | None


def drop_identity(op: ir.Operation) -> Values:
    """An operation that gives its operand back: same type, dimensions in the same order."""
    if op.operands[0].type != op.results[0].type:
        return None
    dims = int_list(op, _DIMENSIONS.get(op.name, ""))
    return [op.operands[0]] if dims == sorted(dims) else None


_DIMENSIONS = {"stablehlo.broadcast_in_dim": "broadcast_dimensions", "stablehlo.transpose": "permutation"}


def drop_whole_slice(op: ir.Operation) -> Values:
    """A slice or dynamic_slice of the whole operand; start indices are clamped to zero by the specification."""
    same = has_static_shape(op.operands[0]) and op.operands[0].type == op.results[0].type
    return [op.operands[0]] if same else None


def unit_reshape_to_broadcast(op: ir.Operation) -> Values:
    """A reshape that only inserts dimensions of size one is a broadcast_in_dim."""
    operand, result = op.operands[0], op.results[0]
    if not (has_static_shape(operand) and has_static_shape(result)):
        return None
    dims = _embedding(shape(operand), shape(result))
    return None if dims is None else [build.broadcast_in_dim(operand, dims, result.type)]


def _embedding(inner: Sequence[int], outer: Sequence[int]) -> list[int] | None:
    """Where each dimension of `inner` is found in `outer`, if all others of `outer` are of size one."""
    dims: list[int] = []
    for j, size in enumerate(outer):
        if len(dims) < len(inner) and inner[len(dims)] == size:
            dims.append(j)
        elif size != 1:
            return None
    return dims if len(dims) == len(inner) else None


def compose_broadcasts(op: ir.Operation) -> Values:
    inner = defined_by(op.operands[0], "stablehlo.broadcast_in_dim")
    if inner is None:
        return None
    outer_dims = int_list(op, "broadcast_dimensions")
    dims = [outer_dims[i] for i in int_list(inner, "broadcast_dimensions")]
    return [build.broadcast_in_dim(inner.operands[0], dims, op.results[0].type)]


def reshape_of_reshape(op: ir.Operation) -> Values:
    """Only the last of several reshapes counts; a broadcast that only inserts unit dimensions is a reshape too."""
    inner = defining_op(op.operands[0])
    if inner is None or inner.name not in ("stablehlo.reshape", "stablehlo.broadcast_in_dim"):
        return None
    if not (has_static_shape(inner.operands[0]) and has_static_shape(inner.results[0])):
        return None
    if inner.name == "stablehlo.broadcast_in_dim" and not _inserts_only_unit_dimensions(inner):
        return None
    return [build.reshape(inner.operands[0], op.results[0].type)]


def _inserts_only_unit_dimensions(op: ir.Operation) -> bool:
    dims, inner, outer = int_list(op, "broadcast_dimensions"), shape(op.operands[0]), shape(op.results[0])
    kept = [outer[i] for i in dims] == list(inner) and dims == sorted(dims)
    return kept and all(size == 1 for i, size in enumerate(outer) if i not in dims)


def compose_transposes(op: ir.Operation) -> Values:
    inner = defined_by(op.operands[0], "stablehlo.transpose")
    if inner is None:
        return None
    first = int_list(inner, "permutation")
    return [build.transpose(inner.operands[0], [first[i] for i in int_list(op, "permutation")])]


def transpose_of_broadcast(op: ir.Operation) -> Values:
    inner = defined_by(op.operands[0], "stablehlo.broadcast_in_dim")
    if inner is None:
        return None
    permutation = int_list(op, "permutation")
    dims = [permutation.index(i) for i in int_list(inner, "broadcast_dimensions")]
    return [build.broadcast_in_dim(inner.operands[0], dims, op.results[0].type)]


def broadcast_of_iota(op: ir.Operation) -> Values:
    """iota counts along one dimension; broadcasting or transposing it only renames that dimension."""
    inner = defined_by(op.operands[0], "stablehlo.iota")
    if inner is None:
        return None
    dim = ir.IntegerAttr(inner.attributes["iota_dimension"]).value
    dims = int_list(op, "broadcast_dimensions")
    if shape(op.operands[0])[dim] != shape(op.results[0])[dims[dim]]:
        return None
    return [build.iota(op.results[0].type, dims[dim])]


def transpose_of_iota(op: ir.Operation) -> Values:
    inner = defined_by(op.operands[0], "stablehlo.iota")
    if inner is None:
        return None
    dim = ir.IntegerAttr(inner.attributes["iota_dimension"]).value
    return [build.iota(op.results[0].type, int_list(op, "permutation").index(dim))]


def convert_of_convert(op: ir.Operation) -> Values:
    """Drop the middle type of two conversions when it holds every value of the first type."""
    inner = defined_by(op.operands[0], "stablehlo.convert")
    if inner is None or not holds(element_type(inner.results[0]), element_type(inner.operands[0])):
        return None
    source = inner.operands[0]
    if source.type == op.results[0].type:
        return [source]
    return [build.convert(source, element_type(op.results[0]))]


def convert_of_iota(op: ir.Operation) -> Values:
    """Integer iota of another integer type, when every index fits both."""
    inner = defined_by(op.operands[0], "stablehlo.iota")
    target, source = element_type(op.results[0]), element_type(op.operands[0])
    if inner is None or not (isinstance(target, ir.IntegerType) and isinstance(source, ir.IntegerType)):
        return None
    dim = ir.IntegerAttr(inner.attributes["iota_dimension"]).value
    if shape(op.results[0])[dim] > 2 ** (min(target.width, source.width) - 1):
        return None
    return [build.iota(op.results[0].type, dim)]


# Bits of significand, and of exponent, for the floats that models use.
_FLOAT_FORMATS = {"f16": (11, 5), "bf16": (8, 8), "f32": (24, 8), "f64": (53, 11)}


def holds(wide: ir.Type, narrow: ir.Type) -> bool:
    """Whether every value of element type `narrow` is a value of `wide`, so that converting to `wide` loses nothing."""
    if wide == narrow:
        return True
    if is_float(wide) and is_float(narrow):
        a, b = _FLOAT_FORMATS.get(str(wide)), _FLOAT_FORMATS.get(str(narrow))
        return a is not None and b is not None and a[0] >= b[0] and a[1] >= b[1]
    if not isinstance(narrow, ir.IntegerType):
        return False
    if narrow.width == 1:
        return isinstance(wide, ir.IntegerType) or str(wide) in _FLOAT_FORMATS
    return isinstance(wide, ir.IntegerType) and wide.width > narrow.width and wide.is_unsigned == narrow.is_unsigned


RULES = {
    "stablehlo.broadcast_in_dim": [drop_identity, compose_broadcasts, broadcast_of_iota],
    "stablehlo.reshape": [drop_identity, reshape_of_reshape, unit_reshape_to_broadcast],
    "stablehlo.transpose": [drop_identity, compose_transposes, transpose_of_broadcast, transpose_of_iota],
    "stablehlo.convert": [drop_identity, convert_of_convert, convert_of_iota],
    "stablehlo.slice": [drop_whole_slice],
    "stablehlo.dynamic_slice": [drop_whole_slice],
}
