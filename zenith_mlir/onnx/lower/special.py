"""Functions that ONNX lacks, from those that it has, without a loss of digits where numbers are small or large.

Formulas say where they are from; their errors against float64 are in test/unit/test_onnx_special.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.onnx.arrange import elementwise
from zenith_mlir.onnx.convert import Lowering, Walk
from zenith_mlir.onnx.lower.number import splat_view
from zenith_mlir.onnx.view import View

__all__ = ["SPECIAL", "Expression", "remainder"]

_BOOL = oir.DataType.BOOL


@dataclass(frozen=True)
class Expression:
    """A view with Python's operators: formulas are written as formulas. Numbers take its shape and dtype."""

    walk: Walk
    view: View

    def __add__(self, other: Expression | float) -> Expression:
        return self._node("Add", self, other)

    def __radd__(self, other: float) -> Expression:
        return self._node("Add", other, self)

    def __sub__(self, other: Expression | float) -> Expression:
        return self._node("Sub", self, other)

    def __rsub__(self, other: float) -> Expression:
        return self._node("Sub", other, self)

    def __mul__(self, other: Expression | float) -> Expression:
        return self._node("Mul", self, other)

    def __rmul__(self, other: float) -> Expression:
        return self._node("Mul", other, self)

    def __truediv__(self, other: Expression | float) -> Expression:
        return self._node("Div", self, other)

    def __rtruediv__(self, other: float) -> Expression:
        return self._node("Div", other, self)

    def __neg__(self) -> Expression:
        return self.call("Neg")

    def __lt__(self, other: Expression | float) -> Expression:
        return self._node("Less", self, other, dtype=_BOOL)

    def __gt__(self, other: Expression | float) -> Expression:
        return self._node("Greater", self, other, dtype=_BOOL)

    def __ge__(self, other: Expression | float) -> Expression:
        return self._node("GreaterOrEqual", self, other, dtype=_BOOL)

    def equals(self, other: Expression | float) -> Expression:
        return self._node("Equal", self, other, dtype=_BOOL)

    def call(self, op_type: str, dtype: oir.DataType | None = None) -> Expression:
        """One node of one operand."""
        return self._node(op_type, self, dtype=dtype)

    def where(self, yes: Expression | float, no: Expression | float) -> Expression:
        """`yes` where this is true, else `no`; one of them is an expression."""
        like = next(each for each in (yes, no) if isinstance(each, Expression))
        cases = [like.lift(each).view for each in (yes, no)]
        found = elementwise(self.walk.builder, "Where", self.view, *cases, dtype=like.view.dtype, data=1)
        return Expression(self.walk, found)

    def lift(self, number: Expression | float) -> Expression:
        """A number as an expression like this one."""
        if isinstance(number, Expression):
            return number
        return Expression(self.walk, splat_view(self.walk, number, self.view))

    def polynomial(self, coefficients: Sequence[float]) -> Expression:
        """Horner's rule; the highest power first."""
        result = self.lift(coefficients[0])
        for coefficient in coefficients[1:]:
            result = result * self + coefficient
        return result

    def _node(self, op_type: str, *operands: Any, dtype: oir.DataType | None = None) -> Expression:
        views = [self.lift(operand).view for operand in operands]
        return Expression(self.walk, elementwise(self.walk.builder, op_type, *views, dtype=dtype))


def _formula(function: Callable[..., Expression]) -> Lowering:
    def lower(walk: Walk, op: ir.Operation) -> Sequence[View]:
        return [function(*(Expression(walk, walk.view(value)) for value in op.operands)).view]

    return lower


def _expm1(x: Expression) -> Expression:
    """2 t / (1 - t) with t = tanh(x / 2) near 0, where exp(x) - 1 has no digits left."""
    t = (x * 0.5).call("Tanh")
    return (x.call("Abs") < 0.5).where(2.0 * t / (1.0 - t), x.call("Exp") - 1.0)


def _log1p(x: Expression) -> Expression:
    """log(u) x / (u - 1) for u = 1 + x as it is rounded (Kahan; HP-15C advanced functions handbook, 1982)."""
    u = 1.0 + x
    exact = u.equals(1.0)
    ratio = u.call("Log") * (x / exact.where(1.0, u - 1.0))
    return (x > 1e18).where(x.call("Log"), exact.where(x, ratio))


def _cbrt(x: Expression) -> Expression:
    """A power of |x|, and one step of Newton's method for the last digits."""
    size = x.call("Abs")
    safe = ((size > 0.0).where(size, 1.0) < float("inf")).where((size > 0.0).where(size, 1.0), 1.0)
    root = (safe.call("Log") * (1.0 / 3.0)).call("Exp")
    root = root - (root - safe / (root * root)) * (1.0 / 3.0)
    return safe.equals(size).where(root * x.call("Sign"), x)


def _atan2(y: Expression, x: Expression) -> Expression:
    """By quadrants from atan(y / x); signed zeros and infinities as IEEE 754 has them."""
    infinite = _both_infinite(y, x)
    ratio = infinite.where(y.call("Sign") * x.call("Sign"), y / _nonzero(y, x))
    angle = ratio.call("Atan")
    pi = _is_negative(y).where(-math.pi, y.lift(math.pi))
    return _is_negative(x).where(angle + pi, angle)


def _nonzero(y: Expression, x: Expression) -> Expression:
    """x, and 1 with its sign where both are 0."""
    both = (x.call("Abs") + y.call("Abs")).equals(0.0)
    return both.where(_is_negative(x).where(-1.0, x.lift(1.0)), x)


def _both_infinite(y: Expression, x: Expression) -> Expression:
    smaller = Expression(y.walk, elementwise(y.walk.builder, "Min", y.call("Abs").view, x.call("Abs").view))
    return smaller.equals(float("inf"))


def _is_negative(x: Expression) -> Expression:
    """Also of -0: its reciprocal is negative."""
    return x.equals(0.0).where(1.0 / x, x) < 0.0


def _erfc(x: Expression) -> Expression:
    """1 - erf(x); from 0.5 on exp(-x²) t P(t) with t = 1 / (1 + x / 2), of which small results keep their digits
    (Numerical Recipes, third edition, section 6.2.2, a Chebyshev fit with a relative error below 1.2e-7).
    """
    size = x.call("Abs")
    t = 1.0 / (1.0 + 0.5 * size)
    tail = t * (t.polynomial(_ERFC) - size * size).call("Exp")
    return (size < 0.5).where(1.0 - x.call("Erf"), (x < 0.0).where(2.0 - tail, tail))


_ERFC = (
    0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368,
    -1.26551223,
)  # fmt: skip


def _erf_inv(x: Expression) -> Expression:
    """Two polynomials in w = -log(1 - x²) (Giles 2012, Approximating the erfinv function, single precision)."""
    w = -((1.0 - x) * (1.0 + x)).call("Log")
    near = (w - 2.5).polynomial(_ERF_INV_NEAR)
    far = ((w < 5.0).where(5.0, w).call("Sqrt") - 3.0).polynomial(_ERF_INV_FAR)
    inside = x * (w < 5.0).where(near, far)
    return x.call("Abs").equals(1.0).where(x * float("inf"), inside)


_ERF_INV_NEAR = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941,
)  # fmt: skip
_ERF_INV_FAR = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682,
)  # fmt: skip


def _round_away(x: Expression) -> Expression:
    """Halves away from zero. floor(|x| + 0.5) alone would round 0.49999997 up."""
    size = x.call("Abs")
    below = size.call("Floor")
    rounded = ((size - below) >= 0.5).where(below + 1.0, below)
    return rounded * x.call("Sign")


def _asinh(x: Expression) -> Expression:
    """sign(x) log1p(a + a² / (1 + √(a² + 1))) of a = |x|; log(2 a) where a² has no room."""
    a = x.call("Abs")
    large = a > 1e9
    safe = large.where(1.0, a)
    small = _log1p(safe + safe * safe / (1.0 + (safe * safe + 1.0).call("Sqrt")))
    return large.where(a.call("Log") + math.log(2.0), small) * x.call("Sign")


def _acosh(x: Expression) -> Expression:
    """log1p(t + √(2 t + t²)) of t = x - 1; log(2 x) where x² has no room."""
    large = x > 1e9
    t = large.where(1.0, x) - 1.0
    return large.where(x.call("Log") + math.log(2.0), _log1p(t + (2.0 * t + t * t).call("Sqrt")))


def _atanh(x: Expression) -> Expression:
    """log1p(2 x / (1 - x)) / 2."""
    return 0.5 * _log1p(2.0 * x / (1.0 - x))


def remainder(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """Of floats, with the sign of the dividend, as C's fmod."""
    return [elementwise(walk.builder, "Mod", *(walk.view(value) for value in op.operands), fmod=1)]


def _is_infinite(positive: bool, negative: bool) -> Lowering:
    def lower(walk: Walk, op: ir.Operation) -> Sequence[View]:
        flags = {"detect_positive": int(positive), "detect_negative": int(negative)}
        return [elementwise(walk.builder, "IsInf", walk.view(op.operands[0]), dtype=_BOOL, **flags)]

    return lower


SPECIAL: dict[str, Lowering] = {
    "stablehlo.exponential_minus_one": _formula(_expm1),
    "stablehlo.log_plus_one": _formula(_log1p),
    "stablehlo.cbrt": _formula(_cbrt),
    "stablehlo.atan2": _formula(_atan2),
    "stablehlo.round_nearest_afz": _formula(_round_away),
    "chlo.erfc": _formula(_erfc),
    "chlo.erf_inv": _formula(_erf_inv),
    "chlo.asinh": _formula(_asinh),
    "chlo.acosh": _formula(_acosh),
    "chlo.atanh": _formula(_atanh),
    "chlo.square": _formula(lambda x: x * x),
    "chlo.is_inf": _is_infinite(True, True),
    "chlo.is_pos_inf": _is_infinite(True, False),
    "chlo.is_neg_inf": _is_infinite(False, True),
}
