"""The entries of a map along the features: what each element of a value is made of.

An element is a sum of terms, each a number times up to two *columns*; a column is one feature of a value that is read
no further, over all its other axes at once. So x[i] cos[i] - x[j] sin[i] is two terms, and slices, concatenations,
reversals and pads of such sums only move them. An array of entries has the dimensions of the value that it describes,
those of other axes with size one, after a first one that counts the terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Entries = NDArray[np.void]

# `first` is the smaller of the two columns; a term with fewer than two has ONE there.
ONE = 0
TERM = np.dtype([("factor", np.float64), ("first", np.int32), ("second", np.int32)])


def columns(start: int, dims: Sequence[int]) -> Entries:
    """Elements that are each a column of their own, counted from `start`."""
    out = np.zeros((1, *dims), TERM)
    out["factor"] = 1
    out["second"] = start + np.arange(int(np.prod(dims, dtype=np.int64))).reshape(dims)
    return out


def numbers(values: NDArray[np.float64]) -> Entries:
    out = np.zeros((1, *values.shape), TERM)
    out["factor"] = values
    return out


def padded(entries: Entries, terms: int) -> Entries:
    """`entries` with zero terms added until there are `terms`."""
    missing = np.zeros((terms - len(entries), *entries.shape[1:]), TERM)
    return np.concatenate([entries, missing])


def joined(parts: Sequence[Entries], dim: int) -> Entries:
    """Values side by side along their dimension `dim`."""
    terms = max(len(part) for part in parts)
    return np.concatenate([padded(part, terms) for part in parts], axis=dim + 1)


def stacked(parts: Sequence[Entries]) -> Entries:
    """Values side by side along a new last dimension."""
    return joined([part[..., None] for part in parts], parts[0].ndim - 1)


def negated(entries: Entries) -> Entries:
    out = entries.copy()
    out["factor"] = -out["factor"]
    return out


def total(parts: Sequence[Entries]) -> Entries:
    dims = np.broadcast_shapes(*(part.shape[1:] for part in parts))
    return np.concatenate([np.broadcast_to(part, (len(part), *dims)) for part in parts])


def compact(entries: Entries) -> Entries | None:
    """The same with one term, if no element has two that count."""
    counts = entries["factor"] != 0
    if (counts.sum(axis=0) > 1).any():
        return None
    index = counts.argmax(axis=0)[None]
    return np.take_along_axis(entries, index, axis=0)


def product(left: Entries, right: Entries) -> Entries | None:
    """The product of two values, term by term; None if it has terms of more than two columns."""
    terms = [_product_of_terms(a, b) for a in left for b in right]
    known = [term for term in terms if term is not None]
    return np.stack(known) if len(known) == len(terms) else None


def _product_of_terms(a: Entries, b: Entries) -> Entries | None:
    out = np.zeros(np.broadcast_shapes(a.shape, b.shape), TERM)
    out["factor"] = a["factor"] * b["factor"]
    used = [np.where(t["factor"] == 0, ONE, t[name]) for t in (a, b) for name in ("first", "second")]
    counted = np.sort(np.stack(np.broadcast_arrays(*used)), axis=0)
    if counted[:2].any():
        return None
    out["first"], out["second"] = counted[2], counted[3]
    return out


def terms_of(entries: Entries) -> list[dict[tuple[int, int], float]]:
    """For each element of a value with one dimension its terms: {(first column, second column): factor}."""
    out = []
    for element in entries.T:
        sums: dict[tuple[int, int], float] = {}
        for factor, first, second in element.tolist():
            if factor:
                sums[first, second] = sums.get((first, second), 0.0) + factor
        out.append({key: factor for key, factor in sums.items() if factor})
    return out
