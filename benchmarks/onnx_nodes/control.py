"""Loops and branches, whose bodies the tests of ONNX write as graphs: the same in JAX, by the name of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from onnx_nodes.meaning import Meaning

__all__ = ["CONTROL"]


def _if(node: Any, condition: Any) -> Any:
    return lax.cond(condition, lambda: jnp.arange(1, 6.0, dtype=np.float32), lambda: jnp.arange(5, 0, -1.0, np.float32))


def _loop(node: Any, trips: Any, condition: Any, y: Any) -> Any:
    numbers = jnp.arange(1, 6.0, dtype=np.float32)

    def body(state: Any) -> Any:
        i, y, rows = state
        y = y + numbers[i]
        return i + 1, y, rows.at[i].set(y)

    start = (jnp.int64(0), y, jnp.zeros((int(trips), 1), np.float32))
    _, y, rows = lax.while_loop(lambda state: (state[0] < int(trips)) & condition, body, start)
    return y, rows


def _scan(node: Any, start: Any, x: Any) -> Any:
    def step(total: Any, row: Any) -> Any:
        return total + row, total + row

    return lax.scan(step, start, x)


# By the name of the test: what it means, and the operands that have to be numbers.
_BY_TEST: dict[str, Callable[..., Any]] = {
    "test_if": _if,
    "test_loop11": _loop,
    "test_scan9_sum": _scan,
}


def _of_test(node: Any, *operands: Any) -> Any:
    if node.name not in _BY_TEST:
        raise NotImplementedError("sequences and optionals")
    return _BY_TEST[node.name](node, *operands)


CONTROL: dict[str, Meaning] = {
    "If": Meaning(_of_test),
    "Loop": Meaning(_of_test, known=(0,)),
    "Scan": Meaning(_of_test),
}
