"""What users hand to an exported model: numbers, wide arrays, random keys, small floats; and where models part."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import zenith_mlir as zenith
from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx import quantize_onnx, table
from zenith_mlir.onnx.fused import FUSED

pytestmark = pytest.mark.once

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((40, 40)).astype(np.float32)


@pytest.mark.parametrize(
    "value",
    [
        2.0,
        3,
        np.float32(2),
        np.arange(3),
        np.ones(3),
        np.zeros((0, 2), np.float32),
        np.ones(3, ml_dtypes.float8_e4m3fn),
        np.ones((2, 2), ml_dtypes.bfloat16),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
def test_inputs_as_jax_takes_them(value):
    export = zenith.export_onnx(lambda a: (a + a, a), (value,))
    assert export.report.validation.ok
    assert zenith.validate_onnx(export, lambda a: (a + a, a), [(value,)]).ok


def test_random_keys_go_in_and_out():
    def function(key, x):
        return jax.random.key_data(key) + 1, x

    assert zenith.export_onnx(function, (jax.random.key(3), X)).report.validation.ok
    # Their placement names a mesh, which the program of what is constant needs too.
    assert zenith.export_onnx(lambda x: (jax.random.split(jax.random.key(1)), x), (X,)).report.validation.ok


def test_a_shape_of_a_key_is_no_key():
    shape = jax.eval_shape(lambda: jax.random.key(0))
    with pytest.raises(ZenithError, match="give a key"):
        zenith.export_onnx(lambda k: jax.random.key_data(k), (shape,))


def test_what_python_cannot_pass_is_said():
    with pytest.raises(ZenithError, match=r"no arrays of int4 .*validate=False"):
        zenith.export_onnx(lambda a: a + a, (jnp.ones(3, jnp.int4),))


def test_sizes_said_of_a_cache_are_not_of_its_index():
    cache = {"index": np.int32(1), "k": X}
    export = zenith.export_onnx(
        lambda c, x: {"index": c["index"] + 1, "k": c["k"] + x}, (cache, X), dynamic={"c": "b, ...", "x": "b, _"}
    )
    assert export.report.inputs == ["c.index: int32[]", "c.k: float[b, 4]", "x: float[b, 4]"]
    assert zenith.export_onnx(lambda s, x: s * x, (2.0, X), dynamic="b, _").report.outputs == ["output: float[b, 4]"]


def test_sizes_that_are_only_sometimes_equal():
    def function(x):
        return x[:16] + x

    with pytest.raises(ZenithError, match=r"symbolic sizes: add got incompatible.*dynamic_constraints"):
        zenith.export_onnx(function, (X,), dynamic="n, _")
    zenith.export_onnx(function, (X,), dynamic="n, _", dynamic_constraints=("n <= 16",))


def test_an_array_in_two_places_is_written_once(tmp_path):
    # Smaller ones are written as each place wants them.
    shared = jnp.ones((200, 200))
    params = {"embedding": shared, "head": shared}

    def function(p, x):
        return jnp.sin(x @ p["embedding"]) @ p["head"].T

    export = zenith.export_onnx(function, (shared[:2],), tmp_path / "m.onnx", params=params)
    assert export.report.parameters == shared.size
    both = zenith.export_onnx(function, (shared[:2],), params=params, weights="input")
    assert [each.split(":")[0] for each in both.report.inputs] == ["embedding", "head", "x"]


def test_numbers_as_weights_of_a_module():
    module = zenith.trace(lambda p, x: x * p, 2.0, X)
    assert module.to_onnx(None, params=2.0).report.inputs == ["x: float[3, 4]"]
    with pytest.raises(ZenithError, match="an array is expected for the argument p of main, not str"):
        module.to_onnx(None, params="two")


def test_quantizing_a_model_with_its_weights_in_another_file(tmp_path):
    export = zenith.export_onnx(lambda w, x: x @ w, (W[:3],), tmp_path / "m.onnx", params=W, weights="external")
    report = quantize_onnx(export, tmp_path / "q.onnx", samples=[(W[:3],), (W[:3].astype(np.float64),)])
    assert report.operators["MatMulInteger"] == 1 and "KiB" in str(report)
    with pytest.raises(ZenithError, match="a sample has 2 arrays, and the model 1 inputs, x"):
        quantize_onnx(export, tmp_path / "no.onnx", mode="static", samples=[(W, W)])
    with pytest.raises(ZenithError, match="an OnnxExport or a path, not a int"):
        quantize_onnx(3, tmp_path / "no.onnx")


def wrong(walk, op):
    return [walk.view(op.operands[0])]


@pytest.mark.parametrize(
    ("function", "samples", "options", "op"),
    [
        (lambda p, x: jnp.tanh(x @ p), [(X,)], {"weights": "input"}, "stablehlo.tanh"),
        (lambda p, x: jnp.tanh(x) + 1, [(X,)], {"layouts": {"x": "AB->BA", "output": "AB->BA"}}, "stablehlo.tanh"),
        (
            lambda p, x: jnp.tanh(x @ p),
            [(X * 0,), (np.ones((5, 4), np.float32),)],
            {"dynamic": "b, _"},
            "stablehlo.tanh",
        ),
        (lambda p, x: jnp.exp(jnp.tanh(x @ p)), [(X,)], {"precision": "bf16"}, "stablehlo.tanh"),
        (lambda p, x: jax.lax.fori_loop(0, 3, lambda i, c: jnp.tanh(c) @ p, x), [(X,)], {}, "stablehlo.while"),
        (lambda p, x: jax.nn.gelu(x @ p), [(X,)], {}, "zenith.gelu"),
    ],
    ids=["weights", "layouts", "sample", "precision", "loop", "composite"],
)
def test_where_a_model_parts(function, samples, options, op, monkeypatch):
    params = W[:4, :4]
    assert zenith.validate_onnx(
        zenith.export_onnx(function, (X,), params=params, **options), function, samples, params=params
    ).ok
    monkeypatch.setitem(table.LOWERINGS, "stablehlo.tanh", wrong)
    monkeypatch.setitem(FUSED, "zenith.gelu", wrong)
    export = zenith.export_onnx(function, (X,), params=params, validate=False, **options)
    found = zenith.validate_onnx(export, function, samples, params=params)
    assert not found.ok and found.first.op == op and found.first.line.rpartition(":")[0].endswith("onnx_values.py")


def test_what_a_call_writes_is_noted():
    nnx = pytest.importorskip("flax.nnx")
    norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    (note,) = zenith.export_onnx(norm, (X,)).report.notes
    assert "BatchNorm writes mean, var, which the model in the file does not" in note
    norm.eval()
    assert not zenith.export_onnx(norm, (X,)).report.notes
