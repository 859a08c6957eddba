"""fold-batchnorm: scales and shifts a channel go into the weights, in whatever way they are written, as precisely as
before; what is no such thing stays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zenith_mlir as zenith
from zenith_mlir.certify import certify_pair

pytestmark = pytest.mark.once

BF16, F32 = jnp.bfloat16, jnp.float32
C = 6


def array(*shape: int, seed: int = 0, dtype: Any = F32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@dataclasses.dataclass(frozen=True)
class Program:
    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


X, W = array(2, 5, 5, 4), array(3, 3, 4, C, seed=1) / 6
GAMMA, BETA, MEAN = (array(C, seed=i) for i in (2, 3, 4))
VAR = jnp.abs(array(C, seed=5)) + 0.5
ALL = (X, W, GAMMA, BETA, MEAN, VAR)


def conv(x: Any, w: Any, layout: str = "NHWC", groups: int = 1) -> Any:
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=(layout, "HWIO", layout), feature_group_count=groups
    )


def normalised(y: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> Any:
    return (y - mean) * (jax.lax.rsqrt(var + 1e-5) * gamma) + beta


def channels_first(x: Any, w: Any, *parameters: Any) -> Any:
    gamma, beta, mean, var = (p.reshape(1, -1, 1, 1) for p in parameters)
    return (conv(x.transpose(0, 3, 1, 2), w, "NCHW") - mean) / jnp.sqrt(var + 1e-5) * gamma + beta


def of_a_dense_layer(x: Any, w: Any, *parameters: Any) -> Any:
    return normalised(x @ w, *parameters)


def transposed_between(x: Any, w: Any, *parameters: Any) -> Any:
    y = conv(x, w).transpose(0, 3, 1, 2)
    return normalised(y, *(p.reshape(-1, 1, 1) for p in parameters))


def spread_first(x: Any, w: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> Any:
    y = conv(x, w)
    gamma, beta, mean, var = (jnp.broadcast_to(p, y.shape) for p in (gamma, beta, mean, var))
    return gamma * ((y - mean) / jnp.sqrt(var + 1e-5)) + beta


def bfloat16(x: Any, w: Any, *parameters: Any) -> Any:
    """The convolution in bfloat16, the statistics in float32."""
    return normalised(conv(x.astype(BF16), w.astype(BF16)).astype(F32), *parameters).astype(BF16)


def grouped(x: Any, w: Any, *parameters: Any) -> Any:
    return normalised(conv(x, w[:, :, :2], groups=2), *parameters)


def depthwise(x: Any, w: Any, *parameters: Any) -> Any:
    return normalised(conv(x, w.reshape(3, 3, 1, -1), groups=4), *(jnp.tile(p, 4) for p in parameters))


FOLDED = [
    Program("plain", lambda x, w, *p: normalised(conv(x, w), *p), ALL),
    Program("relu after it", lambda x, w, *p: jax.nn.relu(normalised(conv(x, w), *p)), ALL),
    Program("channels first", channels_first, ALL),
    Program("transposed between", transposed_between, ALL),
    Program("spread first", spread_first, ALL),
    Program("bias first", lambda x, w, *p: normalised(conv(x, w) + p[0], *p), ALL),
    Program("neither scale nor shift", lambda x, w, g, b, m, v: (conv(x, w) - m) * jax.lax.rsqrt(v + 1e-3), ALL),
    Program("one multiplication and addition", lambda x, w, g, b, m, v: conv(x, w) * g + (b - m * g), ALL),
    Program("subtracted from the mean", lambda x, w, g, b, m, v: (m - conv(x, w)) * g, ALL),
    Program("negated", lambda x, w, g, b, m, v: -conv(x, w) * g, ALL),
    Program("grouped", grouped, ALL),
    Program("depthwise", depthwise, ALL),
    Program("dense layer", of_a_dense_layer, (array(20, 4), array(4, C), GAMMA, BETA, MEAN, VAR)),
    Program("bfloat16", bfloat16, ALL),
    Program("all bfloat16", lambda *a: normalised(conv(a[0], a[1]), *a[2:]), tuple(jnp.asarray(x, BF16) for x in ALL)),
]


def run(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[zenith.Module, zenith.Module]:
    original = zenith.trace(function, *arguments)
    return original, original.run("prepare,fold-batchnorm", target="cpu", **options)


@pytest.mark.parametrize("program", FOLDED, ids=lambda program: program.name)
def test_folded(program: Program) -> None:
    original, folded = run(program.function, *program.arguments)
    (remark,) = folded.remarks
    assert remark.kind == "passed" and remark.pass_name == "fold-batchnorm", remark.text()
    assert remark.op == ("stablehlo.dot_general" if program.name == "dense layer" else "stablehlo.convolution")
    # What is left behind the convolution is one addition of a vector spread out.
    out = list(jax.eval_shape(program.function, *program.arguments).shape)
    wide = [line for line in folded.text().splitlines() if line.rstrip().endswith(f"x{'x'.join(map(str, out))}xf32>")]
    assert not any("multiply" in line or "subtract" in line or "divide" in line for line in wide)
    (before,), (after,) = (module.compile("cpu")(*program.arguments) for module in (original, folded))
    tolerance = 2e-5 if before.dtype == F32 else 5e-2
    np.testing.assert_allclose(np.asarray(after, F32), np.asarray(before, F32), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_as_precise_as_before(dtype: Any) -> None:
    arguments = [np.asarray(jnp.asarray(x, dtype)) for x in ALL]
    original, folded = run(FOLDED[0].function, *arguments)
    certificate = certify_pair(original, folded, inputs=[("its own", arguments)])
    assert certificate.sound, certificate.summary


def test_native_batch_norm_inference() -> None:
    text = """
    func.func public @main(%x: tensor<2x5x4xf32>, %w: tensor<4x6xf32>, %g: tensor<6xf32>, %b: tensor<6xf32>,
        %m: tensor<6xf32>, %v: tensor<6xf32>) -> tensor<2x5x6xf32> {
      %0 = stablehlo.dot_general %x, %w, contracting_dims = [2] x [0] : (tensor<2x5x4xf32>, tensor<4x6xf32>) -> tensor<2x5x6xf32>
      %1 = "stablehlo.batch_norm_inference"(%0, %g, %b, %m, %v) {epsilon = 1.0e-3 : f32, feature_index = 2 : i64}
          : (tensor<2x5x6xf32>, tensor<6xf32>, tensor<6xf32>, tensor<6xf32>, tensor<6xf32>) -> tensor<2x5x6xf32>
      return %1 : tensor<2x5x6xf32>
    }
    """  # noqa: E501
    original = zenith.load(text)
    folded = original.run("prepare,fold-batchnorm", target="cpu")
    assert len(folded.remarks) == 1 and "batch_norm" not in folded.text()
    arrays = [np.asarray(x) for x in (array(2, 5, 4), array(4, 6), GAMMA, BETA, MEAN, VAR)]
    (before,), (after,) = (module.compile("cpu")(*arrays) for module in (original, folded))
    np.testing.assert_allclose(after, before, rtol=2e-5, atol=2e-5)


def test_every_layer_of_a_network() -> None:
    def network(x: Any, *parameters: Any) -> Any:
        for i in range(0, len(parameters), 5):
            x = jax.nn.relu(normalised(conv(x, parameters[i]), *parameters[i + 1 : i + 5]))
        return x

    layers = [array(3, 3, 4 if i == 0 else C, C, seed=i) / 6 for i in range(3)]
    parameters = [p for w in layers for p in (w, GAMMA, BETA, MEAN, VAR)]
    _, folded = run(network, X, *parameters)
    assert [r.kind for r in folded.remarks] == ["passed"] * 3


def training(x: Any, w: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> Any:
    y = conv(x, w)
    return normalised(y, gamma, beta, y.mean((0, 1, 2)), y.var((0, 1, 2)))


def variance_of_the_batch(x: Any, w: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> Any:
    y = conv(x, w)
    return normalised(y, gamma, beta, mean, y.var((0, 1, 2)))


LEFT = [
    Program("training", training, ALL),
    Program("variance of the batch", variance_of_the_batch, ALL),
    Program("a bias", lambda x, w, g, *_: conv(x, w) + g, ALL),
    Program("one number", lambda x, w, *_: conv(x, w) * 0.5 + 1, ALL),
    Program("varies along space", lambda x, w, g, *_: conv(x, w) * array(5, C), ALL),
    Program("varies along rows", lambda x, w, g, *_: conv(x, w) * array(5, 1, 1), ALL),
    Program("of the input", lambda x, w, g, *_: conv(x * g[:4], w), ALL),
    Program("squeeze and excite", lambda x, w, *_: (y := conv(x, w)) * y.mean((0, 1, 2)), ALL),
    Program("with itself", lambda x, w, *_: (y := conv(x, w)) * y, ALL),
    Program("divides", lambda x, w, g, *_: g / conv(x, w), ALL),
    Program("product of activations", lambda x, y, g: x @ jnp.tanh(y) * g, (array(20, 4), array(4, C), GAMMA)),
    Program("weights larger than the result", lambda x, w, g: x @ w * g, (array(2, 4), array(4, C), GAMMA)),
]


@pytest.mark.parametrize("program", LEFT, ids=lambda program: program.name)
def test_other_things_are_left_in_silence(program: Program) -> None:
    _, module = run(program.function, *program.arguments)
    assert module.remarks == []


def test_a_result_used_elsewhere_gives_one_remark() -> None:
    def function(x: Any, w: Any, *parameters: Any) -> Any:
        y = conv(x, w)
        return normalised(y, *parameters), y

    _, module = run(function, *ALL)
    (remark,) = module.remarks
    assert remark.kind == "missed" and "something else uses" in remark.reason


def test_exact_numerics_change_nothing() -> None:
    original, module = run(FOLDED[0].function, *ALL, numerics="exact")
    assert module.remarks == [] and module.text() == original.run("prepare", target="cpu").text()
