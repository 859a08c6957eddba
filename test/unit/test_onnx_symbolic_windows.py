"""Convolutions and pools with symbolic sizes: one file for several shapes."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from jax import lax
from unit.onnx_checks import same

import zenith_mlir as zenith
from zenith_mlir.onnx.model import Unconvertible

pytestmark = pytest.mark.once
RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.normal(size=(3, 3, 3, 4)).astype("float32")


def _conv(x):
    return lax.conv_general_dilated(x, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + 0.5


def _net(x):
    y = nn.max_pool(jax.nn.relu(_conv(x)), (2, 2))
    up = lax.conv_transpose(y, KERNEL, (2, 2), "SAME", dimension_numbers=("NHWC", "HWOI", "NHWC"))
    return up, nn.avg_pool(x, (2, 2)), lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID"), (
        jnp.cumsum(x, 1)
    )  # fmt: skip


def test_one_file_for_several_shapes() -> None:
    x = RANDOM.normal(size=(2, 8, 6, 3)).astype("float32")
    model = zenith.export_onnx(_net, (x,), dynamic={0: "b, h, w, 3"}, validate=False).model_bytes
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for dims in ((1, 8, 6, 3), (3, 5, 9, 3)):
        x = RANDOM.normal(size=dims).astype("float32")
        for got, want in zip(session.run(None, {session.get_inputs()[0].name: x}), jax.jit(_net)(x), strict=True):
            same(got, np.asarray(want), 1e-6)


def test_windows_that_are_as_long_as_a_symbol_are_refused() -> None:
    with pytest.raises(Unconvertible, match="symbolic"):
        zenith.export_onnx(lambda x: lax.cummax(x, 0), (np.zeros(4, "float32"),), dynamic={0: "n"}, validate=False)
