"""The integers that a program computes, as expressions of its symbolic dimensions, element by element.

What shapes are made of: scalars and short vectors through arithmetic, concatenation and slicing. A truth value is 0 or
1, `a and b` is their product, and select(c, x, y) is y + c (x - y): one polynomial, whatever the spelling. What cannot
be followed becomes an atom of its own, so that start + size - start is still the size.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import element_type, int_list, shape, splat
from zenith_mlir.onnx.dynamic.expr import Atom, Expr, applied, floordiv, maximum, minimum, mod

__all__ = ["MAX_ELEMENTS", "Numbers", "evaluate", "opaque"]

Numbers = np.ndarray
"""An array of Expr."""

# No shape has more dimensions than this; longer vectors are data.
MAX_ELEMENTS = 64


def evaluate(op: ir.Operation, operands: list[Numbers]) -> Numbers | None:
    """The one result of `op`; None where the operation says nothing of integers."""
    rule = _RULES.get(op.name.removeprefix("stablehlo."))
    return None if rule is None else rule(op, *operands)


def constant(op: ir.Operation) -> Numbers | None:
    """The elements of a stablehlo.constant of integers."""
    value = op.results[0]
    dims = shape(value)
    element = element_type(value)
    if int(np.prod(dims)) > MAX_ELEMENTS or not isinstance(element, ir.IntegerType):
        return None
    number = splat(value)
    elements = np.asarray(op.attributes["value"]) if number is None else np.full(dims, number)
    # The bindings read a true i1 as -1 or True.
    read = bool if element.width == 1 else int
    return _array([Expr.number(read(each)) for each in elements.reshape(-1)], dims)


def _array(elements: list[Expr], dims: tuple[int, ...]) -> Numbers:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(dims)


def _each(function: Callable[..., Expr]) -> Callable[..., Numbers]:
    def rule(op: ir.Operation, *operands: Numbers) -> Numbers:
        spread = np.broadcast_arrays(*operands)
        return _array(
            [function(*elements) for elements in zip(*(a.reshape(-1) for a in spread), strict=True)], spread[0].shape
        )

    return rule


def _is_zero(a: Expr) -> Expr:
    low, high = a.bounds
    # One of a and -a stands for both.
    return Expr.number(0) if low > 0 or high < 0 else applied("is_zero", min(a, -a, key=str))


def _is_negative(a: Expr) -> Expr:
    low, high = a.bounds
    if high < 0 or low >= 0:
        return Expr.number(int(high < 0))
    return applied("is_negative", a)


def _sign(a: Expr) -> Expr:
    return _is_negative(-a) - _is_negative(a)


def _divide(a: Expr, b: Expr) -> Expr:
    """StableHLO rounds towards zero. jnp.floor_divide asks the sign of what can be 0: `_recognised` sees to that."""
    both_positive = a.bounds[0] > 0 and b.bounds[0] > 0
    return floordiv(a, b) if both_positive or b.constant in (1, -1) else applied("truncdiv", a, b)


def _remainder(a: Expr, b: Expr) -> Expr:
    both_positive = a.bounds[0] > 0 and b.bounds[0] > 0
    return mod(a, b) if both_positive else applied("truncmod", a, b)


def _or(a: Expr, b: Expr) -> Expr:
    return a + b - a * b


def _differ(a: Expr, b: Expr) -> Expr:
    return a + b - 2 * a * b


_COMPARE: Mapping[str, Callable[[Expr, Expr], Expr]] = {
    "EQ": lambda a, b: _is_zero(a - b),
    "NE": lambda a, b: 1 - _is_zero(a - b),
    "LT": lambda a, b: _is_negative(a - b),
    "GE": lambda a, b: 1 - _is_negative(a - b),
    "GT": lambda a, b: _is_negative(b - a),
    "LE": lambda a, b: 1 - _is_negative(b - a),
}


def _compare(op: ir.Operation, a: Numbers, b: Numbers) -> Numbers:
    direction = str(op.attributes["comparison_direction"]).split()[-1].rstrip(">")
    return _each(_COMPARE[direction])(op, a, b)


def _select(condition: Expr, a: Expr, b: Expr) -> Expr:
    return _recognised(b + condition * (a - b))


@functools.lru_cache(maxsize=1024)  # a program asks for the same quotient many times
def _recognised(value: Expr) -> Expr:
    """floordiv or mod where `value` is spelled by division towards zero and signs, as jnp.floor_divide is.

    The spellings are compared on numbers on both sides of 0 and of the multiples of the divisor, which is where such
    functions bend.
    """
    pairs = {atom.operands for atom in value.all_atoms() if atom.function in ("truncdiv", "truncmod")}
    if len(pairs) != 1:
        return value
    ((a, b),) = pairs
    dividend, divisor = Expr.symbol("dividend"), Expr.symbol("divisor")
    for candidate, function in ((floordiv(dividend, divisor), floordiv), (mod(dividend, divisor), mod)):
        if all(
            _with(value, a, b, x, y) == candidate.evaluate({"dividend": x, "divisor": y}) for x, y in _samples(a, b)
        ):
            return function(a, b)
    return value


def _samples(dividend: Expr, divisor: Expr) -> list[tuple[int, int]]:
    """Where the dividend can be."""
    divisors = [divisor.constant] if divisor.constant is not None else [1, 2, 3, 5, 8]
    low, high = dividend.bounds
    found = ((k * d + near, d) for d in divisors for k, near in itertools.product(range(-3, 4), range(-2, 3)))
    return [(x, d) for x, d in found if low <= x <= high]


def _with(value: Expr, a: Expr, b: Expr, x: int, y: int) -> int | None:
    """`value` for a = x and b = y; None if it depends on more."""
    number = _substituted(value, {a: x, -a: -x, b: y, -b: -y})
    return number.constant


def _substituted(value: Expr, values: Mapping[Expr, int]) -> Expr:
    if value in values:
        return Expr.number(values[value])
    atoms = {}
    for atom in value.atoms():
        if Expr.of(atom) in values:
            atoms[atom] = Expr.number(values[Expr.of(atom)])
        elif atom.operands:
            atoms[atom] = applied(atom.function, *(_substituted(operand, values) for operand in atom.operands))
    return value.replace(atoms)


def _clamp(op: ir.Operation, low: Numbers, value: Numbers, high: Numbers) -> Numbers:
    return _each(lambda a, x, b: minimum(maximum(x, a), b))(op, low, value, high)


def _convert(op: ir.Operation, value: Numbers) -> Numbers | None:
    type_ = element_type(op.results[0])
    if not isinstance(type_, ir.IntegerType):
        return None
    return _each(lambda a: 1 - _is_zero(a))(op, value) if type_.width == 1 else value


def _reshape(op: ir.Operation, value: Numbers) -> Numbers:
    return value.reshape(shape(op.results[0]))


def _broadcast(op: ir.Operation, value: Numbers) -> Numbers:
    dims = shape(op.results[0])
    line = [1] * len(dims)
    for axis, dim in enumerate(int_list(op, "broadcast_dimensions")):
        line[dim] = value.shape[axis]
    return np.broadcast_to(value.reshape(line), dims)


def _concatenate(op: ir.Operation, *values: Numbers) -> Numbers:
    return np.concatenate(values, ir.IntegerAttr(op.attributes["dimension"]).value)


def _slice(op: ir.Operation, value: Numbers) -> Numbers:
    bounds = (int_list(op, name) for name in ("start_indices", "limit_indices", "strides"))
    return value[tuple(itertools.starmap(slice, zip(*bounds, strict=True)))]


def _transpose(op: ir.Operation, value: Numbers) -> Numbers:
    return value.transpose(int_list(op, "permutation"))


def _iota(op: ir.Operation) -> Numbers | None:
    dims = shape(op.results[0])
    if int(np.prod(dims)) > MAX_ELEMENTS or min(dims, default=0) < 0:
        return None
    dim = ir.IntegerAttr(op.attributes["iota_dimension"]).value
    return _array([Expr.number(int(index[dim])) for index in np.ndindex(*dims)], dims)


def _is_truth(op: ir.Operation) -> bool:
    return bool(ir.IntegerType(element_type(op.results[0])).width == 1)


def _logical(function: Callable[..., Expr]) -> Callable[..., Numbers | None]:
    """On truth values; on integers these operations are on bits."""
    return lambda op, *operands: _each(function)(op, *operands) if _is_truth(op) else None


def _arithmetic(function: Callable[..., Expr]) -> Callable[..., Numbers | None]:
    """On integers; on truth values these operations are others."""
    return lambda op, *operands: None if _is_truth(op) else _each(function)(op, *operands)


_RULES: Mapping[str, Callable[..., Numbers | None]] = {
    "constant": constant,
    "convert": _convert,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "slice": _slice,
    "transpose": _transpose,
    "iota": _iota,
    "add": _arithmetic(lambda a, b: a + b),
    "subtract": _arithmetic(lambda a, b: a - b),
    "multiply": _arithmetic(lambda a, b: a * b),
    "negate": _each(lambda a: -a),
    "maximum": _each(maximum),
    "minimum": _each(minimum),
    "divide": _each(_divide),
    "remainder": _each(_remainder),
    "sign": _each(_sign),
    "compare": _compare,
    "select": _each(_select),
    "clamp": _clamp,
    "and": _logical(lambda a, b: a * b),
    "or": _logical(_or),
    "xor": _logical(_differ),
    "not": _logical(lambda a: 1 - a),
}


def opaque(value: ir.Value, name: str) -> Numbers:
    """One atom for every element of a value of which nothing is known."""
    dims = shape(value)
    return _array([Expr.of(Atom("value", f"{name}[{i}]")) for i in range(int(np.prod(dims)))], dims)
