"""Mask recovery: a proven band agrees with the mask everywhere; what is not proven stays a residue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zenith_mlir as zenith
from zenith_mlir.ir.facts import shape, walk
from zenith_mlir.match.axes import AxisSpace
from zenith_mlir.match.masks import Mask, recover

T, S = 6, 9
ROWS, COLUMNS = np.arange(T)[:, None], np.arange(S)[None, :]


def rows() -> Any:
    return jnp.arange(T)[:, None]


def columns() -> Any:
    return jnp.arange(S)[None, :]


def read(function: Callable[..., Any], *arguments: Any) -> tuple[Mask, AxisSpace]:
    """Recover the [T, S] mask that `function` returns; its last axis is the column."""
    module = zenith.trace(function, *arguments).run("prepare", target="cpu")
    (returned,) = [op for op in walk(module.operation) if op.name == "func.return"]
    space = AxisSpace()
    view = space.fresh_view(shape(returned.operands[0]))
    mask = recover(space, returned.operands[0], view, view[-1][0])
    read.keep = module  # type: ignore[attr-defined]  # operations live as long as their module
    return mask, space


def band(mask: Mask) -> tuple[int | None, int | None]:
    (found,) = mask.bands
    return found.low, found.high


def visible(low: int | None, high: int | None) -> np.ndarray:
    distance = COLUMNS - ROWS
    return (distance >= (-99 if low is None else low)) & (distance <= (99 if high is None else high))


BANDS: dict[str, Callable[[], Any]] = {
    "rows >= columns": lambda: rows() >= columns(),
    "columns <= rows": lambda: columns() <= rows(),
    "rows > columns": lambda: rows() > columns(),
    "not (columns > rows)": lambda: ~(columns() > rows()),
    "offset rows": lambda: rows() + 3 >= columns(),
    "offset both": lambda: rows() - 2 >= columns() - 3,
    "difference": lambda: (rows() - columns()) >= -1,
    "difference, reversed": lambda: (columns() - rows()) < 2,
    "window left": lambda: rows() - columns() < 3,
    "diagonal": lambda: rows() == columns(),
    "symmetric window": lambda: jnp.abs(rows() - columns()) < 3,
    "tril": lambda: jnp.tril(jnp.ones((T, S), bool)),
    "tril with k": lambda: jnp.tril(jnp.ones((T, S), bool), k=2),
    "triu of ones, inverted": lambda: jnp.triu(jnp.ones((T, S)), k=1) == 0,
    "sliced out of a larger mask": lambda: (jnp.arange(20)[:, None] >= jnp.arange(20)[None, :])[4 : 4 + T, 2 : 2 + S],
    "constant": lambda: jnp.asarray(np.tri(T, S, 1, dtype=bool)),
    "constant, slice": lambda: jnp.asarray(np.tri(20, 20, dtype=bool))[:T, :S],
    "constant window": lambda: jnp.asarray(np.tri(T, S, 1, dtype=bool) & ~np.tri(T, S, -3, dtype=bool)),
}


@pytest.mark.parametrize("name", BANDS)
def test_bands_are_proven_and_true(name: str) -> None:
    mask, _ = read(BANDS[name])
    assert not mask.residue
    np.testing.assert_array_equal(visible(*band(mask)), np.broadcast_to(np.asarray(jax.jit(BANDS[name])()), (T, S)))


def test_conjunction_gives_bands_and_residue() -> None:
    keep = jnp.asarray([True] * 7 + [False] * 2)
    mask, _ = read(lambda keep: (rows() >= columns()) & (rows() - columns() < 4) & keep[None, :], keep)
    assert sorted((b.low, b.high) for b in mask.bands if b.low is not None) == [(-3, None)]
    assert [(b.low, b.high) for b in mask.bands if b.high is not None] == [(None, 0)]
    (term,) = mask.residue
    assert shape(term.value) == (S,) and not term.negated


def test_negated_disjunction_is_a_conjunction() -> None:
    hide = jnp.asarray([False] * 7 + [True] * 2)
    mask, _ = read(lambda hide: ~((columns() > rows()) | hide[None, :]), hide)
    assert band(mask) == (None, 0)
    (term,) = mask.residue
    assert term.negated


NOT_BANDS: dict[str, Callable[[], Any]] = {
    "disjunction": lambda: (rows() >= columns()) | (columns() < 2),
    "different strides": lambda: rows() * 2 >= columns(),
    "sum": lambda: rows() + columns() < 6,
    "constant with a hole": lambda: jnp.asarray(np.tri(T, S, dtype=bool) & ~((ROWS == 4) & (COLUMNS == 1))),
    "modulo": lambda: rows() % 3 >= columns(),
}


@pytest.mark.parametrize("name", NOT_BANDS)
def test_look_alikes_stay_a_residue(name: str) -> None:
    mask, _ = read(NOT_BANDS[name])
    assert not mask.bands and len(mask.residue) == 1


def test_arithmetic_that_wraps_is_no_proof() -> None:
    """In int8, 120 + row overflows for rows above 7: comparing the wrapped sum is no band."""

    def wraps() -> Any:
        r, c = jnp.arange(16, dtype=jnp.int8)[:, None], jnp.arange(16, dtype=jnp.int8)[None, :]
        return r + jnp.int8(120) >= c + jnp.int8(120)

    module = zenith.trace(wraps).run("prepare", target="cpu")
    (returned,) = [op for op in walk(module.operation) if op.name == "func.return"]
    space = AxisSpace()
    view = space.fresh_view((16, 16))
    mask = recover(space, returned.operands[0], view, view[1][0])
    assert not mask.bands


def test_a_mask_that_shows_nothing_is_not_a_band() -> None:
    mask, _ = read(lambda: jnp.zeros((T, S), bool))
    assert mask.never
