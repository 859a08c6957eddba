"""Between which numbers the elements of an integer value lie, so far as the program says."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.ir.elements import elements
from zenith_mlir.ir.facts import defined_by, defining_op, element_type, shape, splat
from zenith_mlir.ir.loops import Loop
from zenith_mlir.ir.signature import numpy_dtype
from zenith_mlir.onnx.sizes import Sizes

__all__ = ["Range", "integer_range", "uniform", "unwrapped"]

Range = tuple[float, float]

_MAX_DEPTH = 16
_MAX_ELEMENTS = 1 << 20


def integer_range(value: ir.Value, sizes: Sizes, depth: int = 0) -> Range:
    """The smallest and the largest number that any element can be; without knowledge, those of the element type."""
    limits = _limits(value)
    op = defining_op(value)
    if op is None:
        return _counted(value) or limits
    rule = None if depth > _MAX_DEPTH else _RULES.get(op.name)
    if rule is None or not math.isfinite(limits[0]):
        return limits
    low, high = rule(op, lambda operand: integer_range(operand, sizes, depth + 1), sizes)
    # What the type cannot hold wraps around.
    return (low, high) if limits[0] <= low and high <= limits[1] else limits


def _counted(value: ir.Value) -> Range | None:
    """Of an argument of a loop's body that counts its iterations from 0."""
    block = value.owner
    assert isinstance(block, ir.Block)
    op = block.owner.operation
    if op.name != "stablehlo.while":
        return None
    loop = Loop(op)
    if loop.counter is None or block != loop.body:
        return None
    i = ir.BlockArgument(value).arg_number
    step = defined_by(loop.returned[i], "stablehlo.add")
    counts = step is not None and step.operands[0] == value and splat(step.operands[1]) == 1
    return (0, max(loop.counter[1] - 1, 0)) if counts and uniform(loop.operands[i]) == 0 else None


def _limits(value: ir.Value) -> Range:
    dtype = numpy_dtype(element_type(value))
    if dtype == np.bool_:
        return 0, 1
    if dtype.kind not in "iu":
        return -math.inf, math.inf
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def uniform(value: ir.Value) -> int | None:
    """The one integer that all elements are known to be."""
    op = defining_op(value)
    while op is not None and op.name in ("stablehlo.broadcast_in_dim", "stablehlo.reshape", "stablehlo.transpose"):
        value = op.operands[0]
        op = defining_op(value)
    number, dtype = splat(value), numpy_dtype(element_type(value))
    if not isinstance(number, int | bool) or dtype.kind not in "biu":
        return None
    # Attributes hold signed bits.
    return int(number) % (1 << 8 * dtype.itemsize) if dtype.kind == "u" else int(number)


def unwrapped(value: ir.Value, size: int) -> ir.Value | None:
    """i where `value` is `select(i < 0, i + size, i)`, as jax.numpy counts indices from the end."""
    select = defined_by(value, "stablehlo.select")
    if select is None:
        return None
    negative, moved, index = select.operands
    compare, add = defined_by(negative, "stablehlo.compare"), defined_by(moved, "stablehlo.add")
    if compare is None or add is None or "LT" not in str(compare.attributes["comparison_direction"]):
        return None
    is_negative = compare.operands[0] == index and uniform(compare.operands[1]) == 0
    from_end = index in list(add.operands) and size in [uniform(operand) for operand in add.operands]
    return index if is_negative and from_end else None


_Of = Callable[[ir.Value], Range]
_Rule = Callable[[ir.Operation, _Of, Sizes], Range]


def _constant(op: ir.Operation, of: _Of, sizes: Sizes) -> Range:
    count = math.prod(shape(op.results[0]))
    if count and splat(op.results[0]) is not None:
        number = int(elements(op).flat[0])
        return number, number
    if not 0 < count <= _MAX_ELEMENTS:
        return -math.inf, math.inf
    array = elements(op)
    return int(array.min()), int(array.max())


def _iota(op: ir.Operation, of: _Of, sizes: Sizes) -> Range:
    size = shape(op.results[0])[ir.IntegerAttr(op.attributes["iota_dimension"]).value]
    return (0, _limits(op.results[0])[1]) if sizes.is_symbolic(size) else (0, max(size - 1, 0))


def _same(op: ir.Operation, of: _Of, sizes: Sizes) -> Range:
    return of(op.operands[0])


def _any(op: ir.Operation, of: _Of, sizes: Sizes) -> Range:
    """Elements of any of the operands."""
    ranges = [of(operand) for operand in op.operands]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _select(op: ir.Operation, of: _Of, sizes: Sizes) -> Range:
    _, moved, index = op.operands
    low, high = of(index)
    add = defined_by(moved, "stablehlo.add")
    size = None if add is None else uniform(add.operands[1])
    if size is not None and size > 0 and unwrapped(op.results[0], size) is not None:
        if low >= 0:
            return low, high
        return min(low + size, 0), max(high, size - 1)
    other = of(moved)
    return min(low, other[0]), max(high, other[1])


def _add(op: ir.Operation, of: _Of, sizes: Sizes) -> Range:
    (a, b), (c, d) = (of(operand) for operand in op.operands)
    return a + c, b + d


def _subtract(op: ir.Operation, of: _Of, sizes: Sizes) -> Range:
    (a, b), (c, d) = (of(operand) for operand in op.operands)
    return a - d, b - c


def _multiply(op: ir.Operation, of: _Of, sizes: Sizes) -> Range:
    (a, b), (c, d) = (of(operand) for operand in op.operands)
    products = [x * y if x and y else 0 for x in (a, b) for y in (c, d)]
    return min(products), max(products)


def _maximum(op: ir.Operation, of: _Of, sizes: Sizes) -> Range:
    (a, b), (c, d) = (of(operand) for operand in op.operands)
    return max(a, c), max(b, d)


def _minimum(op: ir.Operation, of: _Of, sizes: Sizes) -> Range:
    (a, b), (c, d) = (of(operand) for operand in op.operands)
    return min(a, c), min(b, d)


def _clamp(op: ir.Operation, of: _Of, sizes: Sizes) -> Range:
    (low_min, low_max), (a, b), (high_min, high_max) = (of(operand) for operand in op.operands)
    return min(max(a, low_min), high_min), min(max(b, low_max), high_max)


def _remainder(op: ir.Operation, of: _Of, sizes: Sizes) -> Range:
    """With the sign of the dividend; the dividend itself for a divisor 0."""
    (a, b), (c, d) = (of(operand) for operand in op.operands)
    if c <= 0:
        return a, b
    return (0 if a >= 0 else max(a, 1 - d)), (0 if b <= 0 else min(b, d - 1))


def _and(op: ir.Operation, of: _Of, sizes: Sizes) -> Range:
    highs = [high for low, high in map(of, op.operands) if low >= 0]
    return (0, min(highs)) if highs else (-math.inf, math.inf)


def _convert(op: ir.Operation, of: _Of, sizes: Sizes) -> Range:
    """Numbers of another integer type; rounding of floats is not followed."""
    return of(op.operands[0])


_S = "stablehlo."
_RULES: dict[str, _Rule] = {
    _S + "constant": _constant,
    _S + "iota": _iota,
    **dict.fromkeys([_S + n for n in ("broadcast_in_dim", "reshape", "transpose", "slice", "reverse")], _same),
    **dict.fromkeys([_S + n for n in ("dynamic_slice", "gather", "optimization_barrier")], _same),
    _S + "concatenate": _any,
    _S + "pad": _any,
    _S + "select": _select,
    _S + "add": _add,
    _S + "subtract": _subtract,
    _S + "multiply": _multiply,
    _S + "maximum": _maximum,
    _S + "minimum": _minimum,
    _S + "clamp": _clamp,
    _S + "remainder": _remainder,
    _S + "and": _and,
    _S + "convert": _convert,
}
