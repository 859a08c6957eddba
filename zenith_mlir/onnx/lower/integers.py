"""Integer arithmetic as XLA defines it where ONNX leaves it open or onnxruntime's process would end by a signal:
division by zero, the smallest number divided by -1, shifts by more than there are bits, signed shifts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.onnx.arrange import elementwise
from zenith_mlir.onnx.convert import Lowering, NotConvertible, Walk
from zenith_mlir.onnx.lower.number import BITS, SIGNED, UNSIGNED, splat_view
from zenith_mlir.onnx.view import View

__all__ = ["INTEGER_OPS"]

_BOOL = oir.DataType.BOOL


def _divide(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """x / 0 is -1 (all bits set), and the smallest number divided by -1 itself (StableHLO on XLA)."""
    x, y = (walk.view(value) for value in op.operands)
    if _is_harmless(walk, op.operands[1]):
        return [elementwise(walk.builder, "Div", x, y)]
    zero = _equals(walk, y, 0)
    all_bits = splat_view(walk, np.iinfo(x.dtype.numpy()).max if x.dtype in UNSIGNED.values() else -1, x)
    quotient = elementwise(walk.builder, "Div", x, _harmless(walk, y))
    if x.dtype in SIGNED.values():
        quotient = _where(walk, _equals(walk, y, -1), elementwise(walk.builder, "Neg", x), quotient)
    return [_where(walk, zero, all_bits, quotient)]


def _remainder(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """With the sign of the dividend; x % 0 is x."""
    x, y = (walk.view(value) for value in op.operands)
    if _is_harmless(walk, op.operands[1]):
        return [_mod(walk, x, y)]
    return [_where(walk, _equals(walk, y, 0), x, _mod(walk, x, _harmless(walk, y)))]


def _mod(walk: Walk, x: View, y: View) -> View:
    """ONNX's Mod takes the sign of the divisor unless it is told to work like C's fmod."""
    return elementwise(walk.builder, "Mod", x, y, fmod=1)


def _harmless(walk: Walk, divisor: View) -> View:
    """1 instead of 0 and -1."""
    bad = _equals(walk, divisor, 0)
    if divisor.dtype in SIGNED.values():
        bad = elementwise(walk.builder, "Or", bad, _equals(walk, divisor, -1))
    return _where(walk, bad, splat_view(walk, 1, divisor), divisor)


def _is_harmless(walk: Walk, divisor: ir.Value) -> bool:
    known = walk.builder.array(walk.view(divisor).value)
    return known is not None and not np.isin(known, (0, -1) if known.dtype.kind == "i" else (0,)).any()


def _equals(walk: Walk, x: View, number: int) -> View:
    return elementwise(walk.builder, "Equal", x, splat_view(walk, number, x), dtype=_BOOL)


def _where(walk: Walk, predicate: View, yes: View, no: View) -> View:
    return elementwise(walk.builder, "Where", predicate, yes, no, dtype=yes.dtype, data=1)


def _power(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """A negative exponent gives 0, but for the bases 1, -1 and 0."""
    x, y = (walk.view(value) for value in op.operands)
    known = walk.builder.array(y.value)
    if known is None or (known.dtype.kind == "i" and (known < 0).any()):
        raise NotConvertible("an integer power is converted where its exponent is a constant that is not negative")
    return [elementwise(walk.builder, "Pow", x, y)]


def _shift(direction: str) -> Lowering:
    """Shifts that fill with zeros."""

    def lower(walk: Walk, op: ir.Operation) -> Sequence[View]:
        x, amount = (walk.view(value) for value in op.operands)
        return [_logical(walk, x, amount, direction)]

    return lower


def _logical(walk: Walk, x: View, amount: View, direction: str) -> View:
    bits = BITS[x.dtype]
    unsigned, by = (_cast(walk, view, UNSIGNED[bits]) for view in (x, amount))
    known = walk.builder.array(amount.value)
    shifted = elementwise(walk.builder, "BitShift", unsigned, by, direction=direction)
    if known is None or not ((known >= 0) & (known < bits)).all():
        inside = elementwise(walk.builder, "Less", by, splat_view(walk, bits, by), dtype=_BOOL)
        shifted = _where(walk, inside, shifted, splat_view(walk, 0, shifted))
    return _cast(walk, shifted, x.dtype)


def _shift_right_arithmetic(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """The first bit stays, of unsigned numbers, too. Of a negative number: the complement of the shifted complement."""
    operand, amount = (walk.view(value) for value in op.operands)
    x = _cast(walk, operand, SIGNED[BITS[operand.dtype]])
    negative = elementwise(walk.builder, "Less", x, splat_view(walk, 0, x), dtype=_BOOL)
    shifted = _logical(walk, _where(walk, negative, _complement(walk, x), x), amount, "RIGHT")
    return [_cast(walk, _where(walk, negative, _complement(walk, shifted), shifted), operand.dtype)]


def _complement(walk: Walk, x: View) -> View:
    """Every bit the other way round, which is -1 - x; BitwiseNot comes with opset 18."""
    return elementwise(walk.builder, "Sub", splat_view(walk, -1, x), x)


def _cast(walk: Walk, view: View, dtype: oir.DataType) -> View:
    return view.with_value(walk.builder.cast(view.value, dtype))


INTEGER_OPS: dict[str, Lowering] = {
    "divide": _divide,
    "remainder": _remainder,
    "power": _power,
    "shift_left": _shift("LEFT"),
    "shift_right_logical": _shift("RIGHT"),
    "shift_right_arithmetic": _shift_right_arithmetic,
}
