"""Fourier transforms as products with matrices of cosines and sines.

onnxruntime's DFT is one thread and wants complex numbers as a last dimension of 2; products with a constant matrix are
ready to be multiplied with what is around them, and fast up to some thousand points.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import int_list
from zenith_mlir.onnx.arrange import elementwise
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import NotConvertible
from zenith_mlir.onnx.lower.dot import contract
from zenith_mlir.onnx.view import View

__all__ = ["transform"]

_MOST_POINTS = 4096


def transform(builder: Builder, op: ir.Operation, real: View, imaginary: View) -> tuple[View, View | None]:
    """Over the last dimensions, as many as `op` has lengths. The imaginary part is None for a real result.

    Raises:
        NotConvertible: for more than 4096 points along a dimension, or a symbolic number of them.
    """
    kind, lengths = str(op.attributes["fft_type"]), int_list(op, "fft_length")
    kind = next(name for name in ("IRFFT", "RFFT", "IFFT", "FFT") if name in kind)
    if max(lengths, default=0) > _MOST_POINTS or any(builder.sizes.is_symbolic(n) for n in lengths):
        raise NotConvertible(
            f"a Fourier transform has to have a number of points that is known and at most {_MOST_POINTS}"
        )
    last = real.rank - 1
    first = real.rank - len(lengths)
    found: tuple[View, View] = (real, imaginary)
    if kind == "RFFT":
        found = _from_real(builder, real, last, lengths[-1])
    inverse = kind.startswith("I")
    for d in range(first, last if "R" in kind else last + 1):
        found = _along(builder, *found, d, lengths[d - first], inverse)
    return (_to_real(builder, *found, last, lengths[-1]), None) if kind == "IRFFT" else found


def _waves(rows: int, columns: int, n: int) -> np.ndarray[Any, Any]:
    """exp(-2πi jk / n). jk is reduced before the division, so that nothing is lost."""
    product = np.outer(np.arange(rows), np.arange(columns)) % n
    result: np.ndarray[Any, Any] = np.exp(-2j * math.pi * product / n)
    return result


def _times(builder: Builder, view: View, d: int, matrix: np.ndarray[Any, Any]) -> View:
    """Dimension `d` by a matrix, (old, new)."""
    constant = View.of(builder.constant(np.ascontiguousarray(matrix), view.dtype), matrix.shape)
    kept = [size for axis, size in enumerate(view.shape) if axis != d]
    product = contract(builder, view, constant, DotDims((), (), (d,), (0,)), (*kept, matrix.shape[1]), view.dtype)
    order = [*range(d), len(kept), *range(d, len(kept))]
    return product.transposed(order)


def _from_real(builder: Builder, x: View, d: int, n: int) -> tuple[View, View]:
    waves = _waves(n, n // 2 + 1, n)
    return _times(builder, x, d, waves.real), _times(builder, x, d, waves.imag)


def _along(builder: Builder, real: View, imaginary: View, d: int, n: int, inverse: bool) -> tuple[View, View]:
    waves = _waves(n, n, n).conj() / n if inverse else _waves(n, n, n)
    a, b = (_times(builder, real, d, part) for part in (waves.real, waves.imag))
    known = builder.array(imaginary.value)
    if known is not None and not known.any():
        return a, b
    c, s = (_times(builder, imaginary, d, part) for part in (waves.real, waves.imag))
    return elementwise(builder, "Sub", a, s), elementwise(builder, "Add", b, c)


def _to_real(builder: Builder, real: View, imaginary: View, d: int, n: int) -> View:
    """Of the half that is there the conjugates are the other half; 0 and n / 2 have none."""
    half = n // 2 + 1
    twice = np.full([half, 1], 2.0)
    twice[0] = 1
    if n % 2 == 0:
        twice[-1] = 1
    waves = _waves(half, n, n).conj() * twice / n
    terms = _times(builder, real, d, waves.real), _times(builder, imaginary, d, waves.imag)
    return elementwise(builder, "Sub", *terms)
