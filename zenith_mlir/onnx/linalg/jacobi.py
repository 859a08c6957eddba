"""Jacobi's rotations of all pairs of columns, half of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from zenith_mlir.onnx.linalg.matrices import Array, indices

__all__ = ["Tournament", "in_order"]

# Six to ten are what matrices take; who has not converged by then has NaN or infinities.
_MOST_SWEEPS = 20


@dataclass(frozen=True)
class Tournament:
    """In which every column meets every other once: column i meets i + n / 2, then they change places (Golub & Van
    Loan, 4th ed., section 8.5.6). After a sweep of n - 1 rounds all are back. n is even.
    """

    n: int

    @property
    def other(self) -> np.ndarray[Any, Any]:
        """Whom each one meets."""
        return np.roll(indices(self.n), self.n // 2)

    @property
    def moves(self) -> np.ndarray[Any, Any]:
        """Who takes each place for the next round: the first one stays, the others go round."""
        half = self.n // 2
        top, bottom = indices(self.n)[:half], indices(self.n)[half:]
        if half == 1:
            return indices(self.n)
        return np.concatenate([top[:1], bottom[:1], top[1:-1], bottom[1:], top[-1:]])

    def rotation(self, squares: Array, products: Array) -> Array:
        """The matrix (..., n, n) that makes `products` zero and lets columns change places.

        Args:
          squares: (..., n), the diagonal of a symmetric matrix.
          products: (..., n), its elements where a column meets another.

        The smaller one of the two angles is taken (section 8.5.2, algorithm 8.5.1).
        """
        dtype = squares.dtype
        first = np.where(indices(self.n) < self.n // 2, 1, -1).astype(dtype)
        none = products == 0
        twice = jnp.where(none, 1, 2 * products)
        cotangent = (jnp.take(squares, self.other, -1, mode="clip") - squares) / twice
        sign = jnp.where(cotangent == 0, first, jnp.sign(cotangent))
        tangent = sign / (jnp.abs(cotangent) + jnp.sqrt(1 + jnp.square(cotangent)))
        tangent = jnp.where(none, 0, tangent)
        cosine = lax.rsqrt(1 + jnp.square(tangent))
        own, others = np.eye(self.n, dtype=dtype), np.eye(self.n, dtype=dtype)[self.other]
        rotation = cosine[..., None, :] * own - (tangent * cosine)[..., None, :] * others
        return jnp.take(rotation, self.moves, -1, mode="clip")

    def play(
        self,
        round_: Callable[[Sequence[Array]], Sequence[Array]],
        unfinished: Callable[[Sequence[Array]], Array],
        state: Sequence[Array],
    ) -> Sequence[Array]:
        """Rounds until, after a whole sweep, nothing is `unfinished`."""
        rounds = self.n - 1

        def going(carried: Any) -> Any:
            turn, state = carried
            return (turn % rounds != 0) | ((turn < rounds * _MOST_SWEEPS) & unfinished(state))

        found: Sequence[Array] = lax.while_loop(
            going, lambda carried: (carried[0] + 1, round_(carried[1])), (jnp.int32(0), state)
        )[1]
        return found


def in_order(keys: Array, *matrices: Array) -> tuple[Array, ...]:
    """`keys` (..., n) ascending, and the columns of `matrices` (..., m, n) as they are."""
    numbers = lax.broadcasted_iota(jnp.int32, keys.shape, keys.ndim - 1)
    keys, order = lax.sort((keys, numbers), dimension=keys.ndim - 1, num_keys=1)
    places = indices(keys.shape[-1])[:, None] == order[..., None, :]
    return (keys, *(each @ places.astype(each.dtype) for each in matrices))
