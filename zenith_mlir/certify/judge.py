"""What the error of a program is, and when a rewritten program's error is sound.

Let O be a result of the original program, R the same result of the rewritten one and J that of the original
run in float64 on the same inputs, exactly widened. For X = O or R, over the places where O and J are finite:

    whole(X) = max |X - J| / max |J|                                  normwise, over the whole result
    row(X)   = max over rows of (max |X - J| / max |J|), each over the row

A row is the trailing axes, as few as hold 16 numbers. Normwise, since a number that is small only because
large ones cancelled has no digits in any program: pointwise relative errors would compare two kinds of noise.
By row as well, since the rows of most results are computed apart from one another, and one of 1e30 must not
hide an error in its neighbours.

R is sound if, in each measure,

    error(R) <= 2 error*(O) + 2 sway + 4 ulp

and it is as finite as O (below). The ulp is that of the result's dtype. error*(O) is the largest error of O
on the inputs and on a few *neighbours* of them, each float moved at random by half an ulp of the narrowest
float type of the program, and the sway is how far J itself moves from the inputs to a neighbour. That is what
storing the inputs has already cost (Higham, Accuracy and Stability of Numerical Algorithms, 2002, §1.5). One
run of O is one throw of dice: without the neighbours, an original that is right by luck, as a single number
often is, would condemn every other order of summation.

Where O has lost every digit (error(O) >= 1/2: the result is zero in exact arithmetic, like the gradient of
attention's key bias) the factor 2 becomes 16: two ways of rounding nothing differ by more than 2, and no
digit is at stake.

Anything below the smallest normal float32 counts as zero: processors flush it.

NaN and infinity. R must be finite wherever O is, whatever J says: a rewrite brings no NaN. But where J, moved
by those 4 ulp, is beyond the largest number of the result's dtype, infinity is as right as O's number. Where O
and J agree on an infinity, mathematics says so and R must have it too; where they agree on NaN, R must not be
finite: a kernel that answers 0 for a row that has no answer hides the user's bug. It may have an infinity there,
and NaN for an infinity in a row in which both have NaN as well: which of ∞ - ∞ and ∞ an element of such a row
meets is a matter of grouping, as in x r w - m r w and (x - m) r w. Where O is not finite and J differs, O
overflowed, and R may do better.

Integers and booleans: the error is the share of places that differ from J; the sway is the share of those
that J itself changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from zenith_mlir.certify.certificate import Case

__all__ = ["Neighbour", "is_float_like", "judge_result"]

FACTOR = 2.0
FACTOR_WITHOUT_DIGITS = 16.0
FLOOR_ULPS = 4.0
ROW = 16
MEASURES = ("whole", "row")
FLUSHED = float(np.finfo(np.float32).tiny)

Array = NDArray[Any]


class Neighbour(NamedTuple):
    """Results of the original and of the judge on inputs moved by half an ulp."""

    original: Array
    judge: Array


def judge_result(
    name: str, result: int, original: Array, rewritten: Array, judge: Array, near: Sequence[Neighbour] = ()
) -> Case:
    """Compare one result of two programs.

    Args:
      name: of the input set.
      result: the result's number.
      original, rewritten: of one shape and dtype, any that JAX has.
      judge: of that shape: float64 or complex128 for floats, else of that dtype.
      near: the same result on neighbouring inputs; without them the sway is 0.
    """
    compare = _compare_floats if is_float_like(original.dtype) else _compare_integers
    return Case(
        name=name,
        result=result,
        same_bits=original.tobytes() == rewritten.tobytes(),
        **compare(original, rewritten, judge, near),
    )


def _compare_floats(original: Array, rewritten: Array, judge: Array, neighbours: Sequence[Neighbour]) -> dict[str, Any]:
    ulp = float(ml_dtypes.finfo(original.dtype).eps)
    o, r, j = map(_as_float64, (original, rewritten, judge))
    near = [(_as_float64(n.original), _as_float64(n.judge)) for n in neighbours]
    compared = np.isfinite(o) & np.isfinite(j)
    agreed = ~np.isfinite(o) & _same(o, j)
    overflown = _rounded(j * (1 + FLOOR_ULPS * ulp), original.dtype)
    nowhere = _in_rows(agreed & np.isnan(o))
    error_original, error_rewritten = _errors(o, j, compared), _errors(r, j, compared)
    dice = np.max([error_original, *(_errors(no, nj, compared) for no, nj in near)], axis=0)
    sway = np.max([(0.0,) * len(MEASURES), *(_errors(nj, j, compared) for _, nj in near)], axis=0)
    allowed = np.where(dice < 0.5, FACTOR, FACTOR_WITHOUT_DIGITS) * dice + FACTOR * sway + FLOOR_ULPS * ulp
    closest = int(np.argmax([_quotient(*pair) for pair in zip(error_rewritten, allowed, strict=True)]))
    return {
        "measure": MEASURES[closest],
        "error_original": error_original[closest],
        "error_fused": error_rewritten[closest],
        "allowed": float(allowed[closest]),
        "ratio": _quotient(error_rewritten[closest], max(error_original[closest], ulp)),
        "new_nonfinite": int((np.isfinite(o) & ~np.isfinite(r) & (r != overflown)).sum()),
        "lost_nonfinite": int((agreed & ~_same(o, r) & ~(nowhere & ~np.isfinite(r))).sum()),
        "judged": float(compared.mean()) if compared.size else 1.0,
    }


def _compare_integers(
    original: Array, rewritten: Array, judge: Array, neighbours: Sequence[Neighbour]
) -> dict[str, Any]:
    def mismatches(x: Array) -> float:
        return float((x != judge).mean()) if x.size else 0.0

    error_original, error_rewritten = mismatches(original), mismatches(rewritten)
    sway = max((mismatches(n.judge) for n in neighbours), default=0.0)
    return {
        "measure": "mismatches",
        "error_original": error_original,
        "error_fused": error_rewritten,
        "allowed": FACTOR * (error_original + sway),
        "ratio": _quotient(error_rewritten, error_original),
    }


def is_float_like(dtype: np.dtype[Any]) -> bool:
    """Whether `dtype` is a float (bfloat16 and the eight-bit ones included) or complex."""
    return dtype.kind in "fc" or (dtype.kind == "V" and dtype.name.startswith(("bfloat", "float")))


def _as_float64(x: Array) -> Array:
    """Float64; a complex array with a last axis of its two parts."""
    if x.dtype.kind == "c":
        x = np.stack([x.real, x.imag], axis=-1)
    return np.asarray(x, np.float64)


def _rounded(x: Array, dtype: np.dtype[Any]) -> Array:
    """`x` as a number of `dtype`, or of its parts where that is complex."""
    narrow = np.empty(0, dtype).real.dtype
    with np.errstate(over="ignore"):
        return x.astype(narrow).astype(np.float64)


def _in_rows(places: Array) -> Array:
    """Where a row holds one of `places`."""
    if not places.size:
        return places
    rows = places.reshape(-1, _row_length(places.shape))
    return np.broadcast_to(rows.any(axis=1, keepdims=True), rows.shape).reshape(places.shape)


def _same(x: Array, y: Array) -> Array:
    return np.equal(x, y) | (np.isnan(x) & np.isnan(y))


def _errors(x: Array, judge: Array, places: Array) -> tuple[float, ...]:
    """`MEASURES` of `x` over `places`, as far as it is finite there."""
    places = places & np.isfinite(x) & np.isfinite(judge)
    if not places.any():
        return (0.0,) * len(MEASURES)
    distance = np.zeros_like(judge)
    np.subtract(x, judge, out=distance, where=places)
    distance = np.abs(distance)
    size = np.where(places, np.abs(judge), 0.0)
    length = _row_length(judge.shape)
    rows = distance.reshape(-1, length).max(axis=1), size.reshape(-1, length).max(axis=1)
    return float(_relative(distance.max(), size.max())), float(_relative(*rows).max())


def _relative(distance: Array, size: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance <= FLUSHED, 0.0, distance / size)


def _row_length(shape: tuple[int, ...]) -> int:
    length = 1
    for extent in reversed(shape):
        if length >= ROW:
            break
        length *= extent
    return length


def _quotient(error: float, reference: float) -> float:
    if error == 0.0:
        return 0.0
    if reference == 0.0:
        return float("inf")
    return 1.0 if error == reference else error / reference
