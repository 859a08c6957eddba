"""Outputs that are inputs, constants, values of a graph around, or each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unit.onnx_checks import agrees

pytestmark = pytest.mark.once
X = np.arange(6, dtype="float32").reshape(2, 3)


def test_outputs_of_one_value() -> None:
    assert agrees(lambda x: (y := x + 1, y, x, jnp.zeros(2)), X).count("Identity") == 2


def test_branches_that_hand_on_what_is_around_them() -> None:
    def fn(x):
        y = jnp.sin(x)
        return jax.lax.cond(x[0, 0] > 0, lambda: y + 1, lambda: y)

    for x in (X, X + 1):
        assert agrees(fn, x, tolerance=1e-6).count("Identity") == 1
