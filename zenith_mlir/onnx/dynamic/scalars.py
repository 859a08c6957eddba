"""What a program computes with sizes as values becomes an argument of `main`, so that nothing folds it.

The shape of a value is static by now, so operations that only made shapes are dead. A scalar whose meaning is known and
that somebody still uses is used as a value: a mean's divisor, a bound that an index is compared with, a trip count.
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import element_type, shape, splat, users, walk
from zenith_mlir.onnx.dynamic.expr import Expr
from zenith_mlir.onnx.dynamic.reader import Reader
from zenith_mlir.onnx.dynamic.shapes import integer

__all__ = ["free_values", "guard_constants"]


class _Arguments:
    """New scalar arguments of `main`, one for each meaning and type."""

    def __init__(self, main: ir.Operation) -> None:
        self._block = main.regions[0].blocks[0]
        self._made: dict[tuple[Expr, ir.Type], ir.BlockArgument] = {}

    def get(self, meaning: Expr, type_: ir.Type) -> ir.BlockArgument:
        key = meaning, type_
        if key not in self._made:
            location = ir.Location.name(str(meaning), context=type_.context)
            self._made[key] = self._block.add_argument(type_, location)
        return self._made[key]

    def meanings(self) -> dict[ir.Value, Expr]:
        return {argument: meaning for (meaning, _), argument in self._made.items()}


def free_values(main: ir.Operation, reader: Reader, floor: int) -> dict[ir.Value, Expr]:
    """Replace scalars that mean a size by arguments, and drop what only made shapes; returns the arguments' meaning.

    From the last operation to the first, so that `s // 2 + 1` is one argument and not the three that it was made of.
    `floor` is that of `Witnesses`.
    """
    arguments = _Arguments(main)
    for op in reversed(list(walk(main))):
        known = reader.known(op.results[0]) if len(op.results) == 1 else None
        if known is None:
            continue
        result = op.results[0]
        if known.ndim == 0 and users(result) and (value := _replacement(op, known.item(), arguments)) is not None:
            result.replace_all_uses_with(value)
        if not users(result):
            op.erase()
    for argument in reader.sizes_in:
        if users(argument):
            known = reader.known(argument)
            assert known is not None
            argument.replace_all_uses_with(arguments.get(known.reshape(-1)[0], argument.type))
    guard_constants(main, arguments, floor)
    return arguments.meanings()


def _replacement(op: ir.Operation, meaning: Expr, arguments: _Arguments) -> ir.Value | None:
    if meaning.constant is None:
        return arguments.get(meaning, op.results[0].type) if meaning.is_stated else None
    if op.name != "stablehlo.get_dimension_size":
        return None
    with ir.InsertionPoint(op), op.location:
        number = ir.IntegerAttr.get(element_type(op.results[0]), meaning.constant)
        value = ir.DenseElementsAttr.get_splat(op.results[0].type, number)
        constant: ir.Value = ir.Operation.create(
            "stablehlo.constant", [value.type], attributes={"value": value}
        ).results[0]
        return constant


_ORDERED = tuple(f"stablehlo.{name}" for name in ("add", "subtract", "compare", "clamp", "maximum", "minimum"))
_PASSED_ON = tuple(f"stablehlo.{name}" for name in ("broadcast_in_dim", "reshape", "convert"))


def guard_constants(main: ir.Operation, arguments: _Arguments, floor: int) -> None:
    """Make arguments of integers that meet an index in a comparison and are not far below the witnesses: at the
    witness, and at no larger size, the comparison would be decided.
    """
    for op in list(walk(main)):
        if op.name != "stablehlo.constant" or shape(op.results[0]):
            continue
        number = splat(op.results[0])
        if not isinstance(number, int) or not floor <= 2 * abs(number) or abs(number) >= 2**31 - 1:
            continue
        if any(user.name in _ORDERED and _has_index(user) for user in _reached(op.results[0])):
            op.results[0].replace_all_uses_with(arguments.get(Expr.number(number), op.results[0].type))
            op.erase()


def _reached(value: ir.Value) -> Iterator[ir.Operation]:
    for user in users(value):
        yield user
        if user.name in _PASSED_ON:
            yield from _reached(user.results[0])


def _has_index(op: ir.Operation) -> bool:
    """Whether an operand comes from an iota through integer arithmetic."""
    seen, stack = set(), list(op.operands)
    while stack:
        value = stack.pop()
        owner = value.owner
        if value in seen or isinstance(owner, ir.Block) or not isinstance(element_type(value), ir.IntegerType):
            continue
        seen.add(value)
        if owner.operation.name == "stablehlo.iota":
            return shape(value)[integer(owner.operation, "iota_dimension")] > 1
        stack += list(owner.operation.operands)
    return False
