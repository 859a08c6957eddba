"""What the region of a sort compares, as jax.lax.sort writes it."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import comparison_direction
from zenith_mlir.ir.facts import defined_by, element_type, is_float, splat
from zenith_mlir.onnx.convert import NotConvertible

__all__ = ["Key", "keys"]


@dataclass(frozen=True)
class Key:
    """Operand number `operand` decides, the largest first if `descending`."""

    operand: int
    descending: bool


def keys(body: ir.Block) -> list[Key]:
    """By which operands is sorted; the next counts where those before are equal. A NaN is larger than everything.

    Raises:
        NotConvertible: for a region that compares anything else.
    """
    *_, terminator = [op.operation for op in body.operations]
    return _keys(terminator.operands[0], list(body.arguments))


def _keys(value: ir.Value, arguments: list[ir.Value]) -> list[Key]:
    either = defined_by(value, "stablehlo.or")
    if either is None:
        return [_key(value, arguments)]
    # a < b, or a and b are equal and the others decide.
    first = _key(either.operands[0], arguments)
    both = defined_by(either.operands[1], "stablehlo.and")
    if both is not None and _compared(both.operands[0], arguments) == ("EQ", first.operand):
        return [first, *_keys(both.operands[1], arguments)]
    raise _refusal()


def _key(value: ir.Value, arguments: list[ir.Value]) -> Key:
    direction, operand = _compared(value, arguments)
    if direction not in ("LT", "GT"):
        raise _refusal()
    return Key(operand, direction == "GT")


def _compared(value: ir.Value, arguments: list[ir.Value]) -> tuple[str, int]:
    """The direction in which both elements of an operand are compared, and which operand that is."""
    compare = defined_by(value, "stablehlo.compare")
    if compare is None:
        raise _refusal()
    total = "compare_type" in compare.attributes and "TOTALORDER" in str(compare.attributes["compare_type"])
    left, right = (_element(operand, total) for operand in compare.operands)
    if left not in arguments or right not in arguments:
        raise _refusal()
    i, j = arguments.index(left), arguments.index(right)
    if i % 2 or j != i + 1:
        raise _refusal()
    return comparison_direction(compare), i // 2


def _element(value: ir.Value, total: bool) -> ir.Value:
    """What is compared, without the selects by which jax.lax.sort makes all NaN one and all zeros one. Only with them
    the total order of floats is the order in which zeros are equal and NaN comes last.
    """
    replaced = 0
    select = defined_by(value, "stablehlo.select")
    while select is not None and splat(select.operands[1]) is not None:
        value, replaced = select.operands[2], replaced + 1
        select = defined_by(value, "stablehlo.select")
    if total and is_float(element_type(value)) and replaced != 2:
        raise NotConvertible("a sort of floats is converted where zeros of both signs are equal, as in jax.numpy.sort")
    if not total and replaced:
        raise _refusal()
    return value


def _refusal() -> NotConvertible:
    return NotConvertible("a sort is converted where its region compares operands with < or >, one after the other")
