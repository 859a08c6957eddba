"""Windows that reach from the first element to each element: sums by CumSum, others in log2(n) steps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import onnx_ir as oir

from zenith_mlir.onnx.arrange import elementwise, stored_view
from zenith_mlir.onnx.convert import NotConvertible, Walk
from zenith_mlir.onnx.lower.reduce import combine, neutral
from zenith_mlir.onnx.lower.shape import pad_axes
from zenith_mlir.onnx.lower.special import Expression
from zenith_mlir.onnx.lower.window import Window
from zenith_mlir.onnx.view import View

__all__ = ["LOG_ADD_EXP", "cumulative"]

_D = oir.DataType

LOG_ADD_EXP = (
    "maximum", "subtract", "compare", "add", "abs", "negate", "exponential", "log_plus_one", "add", "select",
)  # fmt: skip
"""The operations of jnp.logaddexp as JAX writes it."""


def cumulative(walk: Walk, kind: str, view: View, windows: Sequence[Window]) -> View | None:
    """`view` combined along the one dimension of a window that is as long and ends (starts) at each element; None for
    other windows.
    """
    moving = [d for d, window in enumerate(windows) if not window.is_trivial]
    if len(moving) != 1:
        return None
    d = moving[0]
    n = view.shape[d]
    forward, backward = Window(size=n, low=n - 1), Window(size=n, high=n - 1)
    if windows[d] not in (forward, backward):
        return None
    view = stored_view(walk.builder, view, [d])
    reverse = windows[d] == backward
    if kind == "stablehlo.add" and view.dtype != _D.BOOL:
        axis = walk.builder.scalar(view.axes[d] or 0, _D.INT64)
        stored = walk.builder.shape(view.value)
        value = walk.builder.op("CumSum", view.value, axis, shape=stored, reverse=1 if reverse else None)
        return view.with_value(value)
    return _doubling(walk, kind, view, d, reverse)


def _doubling(walk: Walk, kind: str, view: View, d: int, reverse: bool) -> View:
    """After step k every element has 2^k elements combined (Hillis and Steele 1986, Data parallel algorithms)."""
    builder, n = walk.builder, view.shape[d]
    if builder.sizes.is_symbolic(n):
        raise NotConvertible("a cumulative operation other than a sum along a symbolic dimension")
    fill = builder.scalar(neutral(kind, view.dtype), view.dtype)
    join = _combiner(walk, kind, view.dtype)
    for k in range((n - 1).bit_length()):
        amount = (-(1 << k), 1 << k) if reverse else (1 << k, -(1 << k))
        view = join(view, view.with_value(pad_axes(builder, view.value, [view.axes[d] or 0], [amount], fill)))
    return view


def _combiner(walk: Walk, kind: str, dtype: oir.DataType) -> Callable[[View, View], View]:
    if kind == "logaddexp":
        return lambda a, b: _log_add_exp(Expression(walk, a), Expression(walk, b)).view
    return functools.partial(elementwise, walk.builder, combine(kind, dtype))


def _log_add_exp(a: Expression, b: Expression) -> Expression:
    """Of equal infinities the difference is NaN: there, and of NaN, the sum."""
    difference = a - b
    larger = Expression(a.walk, elementwise(a.walk.builder, "Max", a.view, b.view))
    both = larger + ((-difference.call("Abs")).call("Exp") + 1.0).call("Log")
    return difference.call("IsNaN", dtype=_D.BOOL).where(a + b, both)
