"""Complex numbers, for which ONNX has no operators: a view of the real and one of the imaginary parts.

`Walk.parts` holds both; the walk looks an operation with a complex operand or result up under "complex " and its name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.elements import elements
from zenith_mlir.ir.facts import shape
from zenith_mlir.onnx.arrange import elementwise
from zenith_mlir.onnx.convert import COMPLEX_REASON, Lowering, NotConvertible, Walk, is_complex, onnx_type
from zenith_mlir.onnx.lower.dot import contract
from zenith_mlir.onnx.lower.elementwise import ELEMENTWISE
from zenith_mlir.onnx.lower.fft import transform
from zenith_mlir.onnx.lower.number import splat_view
from zenith_mlir.onnx.lower.shape import SHAPE
from zenith_mlir.onnx.lower.special import Expression
from zenith_mlir.onnx.view import View

__all__ = ["COMPLEX", "parts_of"]

_D = oir.DataType
Pair = tuple[View, View]


def _made(walk: Walk, op: ir.Operation, pair: Pair) -> Sequence[View]:
    """The real part stands for the value itself: it has its shape, and nobody else reads it."""
    walk.parts[op.results[0]] = pair
    return [pair[0]]


def parts_of(walk: Walk, value: ir.Value) -> Pair:
    """Of a real value the imaginary part is 0.

    Raises:
        NotConvertible: for an input.
    """
    if value in walk.parts:
        return walk.parts[value]
    view = walk.view(value)
    if not is_complex(value):
        return view, splat_view(walk, 0, view)
    known = walk.builder.array(view.value)
    if known is None:
        raise NotConvertible(COMPLEX_REASON)
    real, imaginary = (view.with_value(walk.builder.constant(part)) for part in (known.real, known.imag))
    return real, imaginary


def _by_parts(lowering: Lowering) -> Lowering:
    """What moves or adds elements does so with the real and the imaginary parts."""

    def lower(walk: Walk, op: ir.Operation) -> Sequence[View]:
        outer = {value: walk.view(value) for value in op.operands if is_complex(value)}
        pairs = {value: parts_of(walk, value) for value in outer}
        found = []
        for k in range(2):
            walk.views.update({value: pair[k] for value, pair in pairs.items()})
            found.append(lowering(walk, op)[0])
        walk.views.update(outer)
        return _made(walk, op, (found[0], found[1]))

    return lower


def _complex(walk: Walk, op: ir.Operation) -> Sequence[View]:
    real, imaginary = (walk.view(value) for value in op.operands)
    return _made(walk, op, (real, imaginary))


def _constant(walk: Walk, op: ir.Operation) -> Sequence[View]:
    array = np.broadcast_to(elements(op), shape(op.results[0]))
    real, imaginary = (View.of(walk.builder.constant(part), array.shape) for part in (array.real, array.imag))
    return _made(walk, op, (real, imaginary))


def _part(k: int) -> Lowering:
    return lambda walk, op: [parts_of(walk, op.operands[0])[k]]


def _convert(walk: Walk, op: ir.Operation) -> Sequence[View]:
    dtype = _D.DOUBLE if onnx_type(op.results[0]) == _D.COMPLEX128 else _D.FLOAT
    real, imaginary = (view.with_value(walk.builder.cast(view.value, dtype)) for view in parts_of(walk, op.operands[0]))
    return _made(walk, op, (real, imaginary))


def _multiply(walk: Walk, op: ir.Operation) -> Sequence[View]:
    (a, b), (c, d) = (_expressions(walk, value) for value in op.operands)
    return _made(walk, op, ((a * c - b * d).view, (a * d + b * c).view))


def _divide(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """(a + i b) (c - i d) / (c² + d²)."""
    (a, b), (c, d) = (_expressions(walk, value) for value in op.operands)
    size = c * c + d * d
    return _made(walk, op, (((a * c + b * d) / size).view, ((b * c - a * d) / size).view))


def _conjugate(walk: Walk, op: ir.Operation) -> Sequence[View]:
    real, imaginary = parts_of(walk, op.operands[0])
    return _made(walk, op, (real, elementwise(walk.builder, "Neg", imaginary)))


def _abs(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """Scaled by the larger part, so that squares neither overflow nor vanish; infinite where a part is."""
    a, b = (part.call("Abs") for part in _expressions(walk, op.operands[0]))
    large, small = (Expression(walk, elementwise(walk.builder, kind, a.view, b.view)) for kind in ("Max", "Min"))
    ratio = small / large.equals(0.0).where(1.0, large)
    size = large * (1.0 + ratio * ratio).call("Sqrt")
    return [large.equals(float("inf")).where(large, size).view]


def _exponential(walk: Walk, op: ir.Operation) -> Sequence[View]:
    a, b = _expressions(walk, op.operands[0])
    size = a.call("Exp")
    return _made(walk, op, ((size * b.call("Cos")).view, (size * b.call("Sin")).view))


def _expressions(walk: Walk, value: ir.Value) -> tuple[Expression, Expression]:
    real, imaginary = parts_of(walk, value)
    return Expression(walk, real), Expression(walk, imaginary)


def _fft(walk: Walk, op: ir.Operation) -> Sequence[View]:
    real, imaginary = transform(walk.builder, op, *parts_of(walk, op.operands[0]))
    return [real] if imaginary is None else _made(walk, op, (real, imaginary))


def _dot_general(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """Four products of real numbers."""
    (a, b), (c, d) = (parts_of(walk, value) for value in op.operands)
    dims, result = DotDims.of(op), shape(op.results[0])

    def dot(left: View, right: View) -> Expression:
        return Expression(walk, contract(walk.builder, left, right, dims, result, left.dtype))

    return _made(walk, op, ((dot(a, c) - dot(b, d)).view, (dot(a, d) + dot(b, c)).view))


_S = "stablehlo."
_MOVES = ("broadcast_in_dim", "reshape", "transpose", "slice", "reverse", "concatenate", "pad", "optimization_barrier")
_SUMS = ("add", "subtract", "negate", "select")

COMPLEX: dict[str, Lowering] = {
    "complex " + name: lowering
    for name, lowering in {
        **{_S + name: _by_parts(SHAPE[_S + name]) for name in _MOVES},
        **{_S + name: _by_parts(ELEMENTWISE[_S + name]) for name in _SUMS},
        _S + "abs": _abs,
        _S + "complex": _complex,
        _S + "constant": _constant,
        _S + "convert": _convert,
        _S + "divide": _divide,
        _S + "dot_general": _dot_general,
        _S + "exponential": _exponential,
        _S + "fft": _fft,
        _S + "imag": _part(1),
        _S + "multiply": _multiply,
        _S + "real": _part(0),
        "chlo.conj": _conjugate,
    }.items()
}
