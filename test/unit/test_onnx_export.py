"""export_onnx as a user calls it: files, weights, names, layouts, types, validation, errors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnx_ir as oir
import pytest

import zenith_mlir as zenith
from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx import OnnxMismatch, Unconvertible, quantize_onnx
from zenith_mlir.onnx.differences import default_tolerance
from zenith_mlir.onnx.run import Session

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 30)).astype(np.float32)
PARAMS = {
    "first": {"w": RNG.standard_normal((30, 64)).astype(np.float32), "b": np.ones(64, np.float32)},
    "last": {"w": RNG.standard_normal((64, 5)).astype(np.float32)},
}


def mlp(params, x):
    hidden = jax.nn.relu(x @ params["first"]["w"] + params["first"]["b"])
    return {"logits": hidden @ params["last"]["w"], "best": jnp.argmax(hidden, -1)}


def expected(x=X):
    result = jax.jit(mlp)(PARAMS, x)
    return [np.asarray(result[name]) for name in ("best", "logits")]


def close(found, wanted):
    for left, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


def test_a_file_with_names_and_weights(tmp_path):
    export = zenith.export_onnx(mlp, (X,), tmp_path / "mlp.onnx", params=PARAMS, metadata={"author": "somebody"})
    model = onnx.load(tmp_path / "mlp.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [each.name for each in model.graph.input] == ["x"]
    assert [each.name for each in model.graph.output] == ["best", "logits"]
    assert {"first.w", "first.b", "last.w"} <= {each.name for each in model.graph.initializer}
    assert {each.key: each.value for each in model.metadata_props}["author"] == "somebody"
    assert model.opset_import[0].version == 23 and model.producer_name == "zenith_mlir"
    close(Session(tmp_path / "mlp.onnx")([X]), expected())
    assert export.model_bytes == (tmp_path / "mlp.onnx").read_bytes()
    assert export.report.nodes["MatMul"] == 2 and export.report.parameters >= 30 * 64 + 64 + 64 * 5
    assert export.report.validation.ok and "beside JAX" in str(export.report)


def test_nodes_say_where_they_come_from(tmp_path):
    zenith.export_onnx(mlp, (X,), tmp_path / "mlp.onnx", params=PARAMS)
    sources = [node.metadata_props.get("source", "") for node in oir.load(tmp_path / "mlp.onnx").graph]
    line = mlp.__code__.co_firstlineno + 1
    assert any(source.endswith(f"test_onnx_export.py:{line}") for source in sources)


@pytest.mark.parametrize("opset", [17, 18, 20, 21, 22, 24])
def test_every_opset(opset, tmp_path):
    zenith.export_onnx(mlp, (X,), tmp_path / "mlp.onnx", params=PARAMS, opset=opset)
    model = onnx.load(tmp_path / "mlp.onnx")
    onnx.checker.check_model(model)
    assert [each.version for each in model.opset_import if not each.domain] == [opset]


def test_weights_beside_the_file(tmp_path):
    export = zenith.export_onnx(mlp, (X,), tmp_path / "mlp.onnx", params=PARAMS, weights="external")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mlp.onnx", "mlp.onnx.data"]
    assert len(export.model_bytes) < 4096 < (tmp_path / "mlp.onnx.data").stat().st_size
    close(Session(tmp_path / "mlp.onnx")([X]), expected())


def test_weights_as_inputs(tmp_path):
    zenith.export_onnx(mlp, (X,), tmp_path / "mlp.onnx", params=PARAMS, weights="input")
    session = Session(tmp_path / "mlp.onnx")
    assert session.inputs == ["first.b", "first.w", "last.w", "x"]
    close(session([*jax.tree.leaves(PARAMS), X]), expected())


def test_without_a_path():
    export = zenith.export_onnx(mlp, (X,), params=PARAMS)
    assert export.path is None
    close(Session(export.model_bytes)([X]), expected())


def test_layouts_of_inputs_and_outputs(tmp_path):
    layouts = {"x": "BF->FB", "logits": "BC->CB"}
    zenith.export_onnx(mlp, (X,), tmp_path / "mlp.onnx", params=PARAMS, layouts=layouts)
    best, logits = Session(tmp_path / "mlp.onnx")([X.T])
    close([best, logits.T], expected())


def test_names_that_the_user_gives(tmp_path):
    export = zenith.export_onnx(
        mlp, (X,), tmp_path / "m.onnx", params=PARAMS, input_names=["tokens"], output_names=["a", "b"]
    )
    assert export.report.inputs[0].startswith("tokens:") and [o.split(":")[0] for o in export.report.outputs] == [
        "a",
        "b",
    ]


def test_symbolic_sizes_in_one_file(tmp_path):
    def attend(x, mask):
        scores = jnp.where(mask[:, None, :], x @ x.swapaxes(1, 2), -1e9)
        return jax.nn.softmax(scores, -1) @ x, x.mean(1), jnp.arange(x.shape[1]) + x.shape[0]

    def inputs(batch, seq):
        return RNG.standard_normal((batch, seq, 8)).astype(np.float32), RNG.random((batch, seq)) > 0.2

    dynamic = {"x": "batch, seq, _", "mask": "batch, seq"}
    export = zenith.export_onnx(attend, inputs(2, 5), tmp_path / "attend.onnx", dynamic=dynamic)
    assert "x: float[batch, seq, 8]" in export.report.inputs
    assert export.report.validation.samples == 2
    session = Session(tmp_path / "attend.onnx")
    for sizes in [(1, 1), (2, 5), (3, 17), (7, 2), (1, 64)]:
        args = inputs(*sizes)
        close(session(args), [np.asarray(each) for each in jax.jit(attend)(*args)])


@pytest.mark.parametrize(("precision", "dtype"), [("f16", "FLOAT16"), ("bf16", "BFLOAT16")])
def test_sixteen_bits(precision, dtype, tmp_path):
    x, w = RNG.standard_normal((3, 200)).astype(np.float32), 0.05 * RNG.standard_normal((200, 300)).astype(np.float32)
    export = zenith.export_onnx(
        lambda w, x: jnp.tanh(x @ w), (x,), tmp_path / "half.onnx", params=w, precision=precision, tolerance=3e-2
    )
    stored = {
        value.dtype.name for value in oir.load(export.path).graph.initializers.values() if value.const_value.size > 9
    }
    assert stored == {dtype} and export.report.weight_bytes < 0.51 * w.nbytes
    assert 1e-5 < export.report.validation.outputs[0].relative < 3e-2
    assert export.report.inputs == ["x: float[3, 200]"]


def test_quantized_models_are_smaller_and_say_what_it_costs(tmp_path):
    function = partial(lambda params, x: mlp(params, x)["logits"])
    export = zenith.export_onnx(function, (X,), tmp_path / "m.onnx", params=PARAMS)
    samples = [(RNG.standard_normal((4, 30)).astype(np.float32),) for _ in range(3)]
    for mode in ("dynamic", "static"):
        report = quantize_onnx(export, tmp_path / f"{mode}.onnx", mode=mode, samples=samples)
        assert report.operators and 0 < report.outputs[0].relative < 0.1
        assert (tmp_path / f"{mode}.onnx").exists() and "of the scale" in str(report)
    with pytest.raises(ZenithError, match="static quantization measures activations"):
        quantize_onnx(export, tmp_path / "no.onnx", mode="static")
    assert not (tmp_path / "no.onnx").exists()


def test_everything_that_cannot_be_converted_is_said_at_once(tmp_path):
    def function(x):
        return jax.lax.psum(jax.scipy.linalg.schur(x)[0], "i") + jax.lax.linalg.hessenberg(x)[0]

    mapped = jax.shard_map(
        function, mesh=jax.make_mesh((1,), ("i",)), in_specs=jax.P(), out_specs=jax.P(), check_vma=False
    )
    with pytest.raises(Unconvertible) as caught:
        zenith.export_onnx(mapped, (np.eye(4, dtype=np.float32),), tmp_path / "no.onnx")
    reasons = str(caught.value)
    assert "all_reduce" in reasons and "one device" in reasons and "lapack" in reasons
    assert f"test_onnx_export.py:{function.__code__.co_firstlineno + 1}" in reasons
    assert not list(tmp_path.iterdir())


def test_a_wrong_model_is_not_written(tmp_path, monkeypatch):
    from zenith_mlir.onnx import table

    def wrong(walk, op):
        return [walk.view(op.operands[0])]

    (tmp_path / "m.onnx").write_bytes(b"older")
    monkeypatch.setitem(table.LOWERINGS, "stablehlo.tanh", wrong)
    with pytest.raises(OnnxMismatch, match="beyond the tolerance"):
        zenith.export_onnx(lambda x: jnp.tanh(x) + 1, (X,), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == b"older" and len(list(tmp_path.iterdir())) == 1
    export = zenith.export_onnx(lambda x: jnp.tanh(x) + 1, (X,), tmp_path / "m.onnx", validate=False)
    found = zenith.validate_onnx(export, lambda x: jnp.tanh(x) + 1, [(X,)])
    assert not found.ok and found.first.op == "stablehlo.tanh"
    assert found.first.line.endswith(f"test_onnx_export.py:{wrong.__code__.co_firstlineno + 9}")


def test_validate_counts_what_is_not_finite():
    export = zenith.export_onnx(lambda x: jnp.log(x), (np.abs(X),))
    assert zenith.validate_onnx(export, jnp.log, [(X,), (np.abs(X),)]).ok  # NaN of both
    found = zenith.validate_onnx(export, lambda x: jnp.log(jnp.abs(x)), [(X,)])
    assert not found.ok and found.outputs[0].unlike > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"opset": 12}, "opset 12 cannot be written; there are 17 to 24"),
        ({"weights": "outside"}, "weights='outside': it is one of 'initializer', 'external', 'input'"),
        ({"path": None, "weights": "external"}, "needs a path"),
        ({"path": "/nowhere/at/all/m.onnx"}, "there is no directory"),
        ({"layouts": {"x": "NHWC->NCHW"}}, "which has 2 dimensions"),
        ({"layouts": {"logit": "AB->BA"}}, "did you mean logits"),
        ({"backend": "other"}, "'zenith' or 'jax2onnx'"),
        ({"metadata": {"a": 1}}, "metadata is strings"),
        ({"precision": "f8"}, "'f16', 'bf16'"),
        ({"dynamic": {"y": "b"}}, "which is no input"),
        ({"passes": "no-such-pass"}, "unknown pass"),
        ({"opset": 23.0}, "opset 23.0 cannot be written"),
        ({"layouts": ["x"]}, "layouts is a mapping from names to strings, not list"),
        ({"tolerance": "small"}, "tolerance='small'"),
        ({"dynamic": 3}, "dynamic is a mapping"),
        ({"params": jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), PARAMS)}, "but no value"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path):
    given = {"path": tmp_path / "m.onnx", "params": PARAMS, **arguments}
    with pytest.raises(ZenithError, match=message):
        zenith.export_onnx(mlp, (X,), given.pop("path"), **given)
    assert not list(tmp_path.iterdir())


def test_a_module_takes_weights_by_position_and_name(tmp_path):
    module = zenith.trace(mlp, PARAMS, X)
    assert "params.first.b: float[64]" in module.to_onnx(tmp_path / "m.onnx", validate=True).report.inputs
    export = module.to_onnx(tmp_path / "m.onnx", params=PARAMS, validate=True, opset=20)
    assert [each.split(":")[0] for each in export.report.inputs] == ["x"] and export.report.opset == 20
    with pytest.raises(ZenithError, match=r"params.first.b of main is float32\[64\]"):
        module.to_onnx(tmp_path / "m.onnx", params=[np.ones(3, np.float32)])


def test_importing_the_package_imports_no_library():
    import subprocess
    import sys

    names = ("jax", "onnx", "onnx_ir", "onnxruntime")
    code = f"import sys, zenith_mlir.onnx; print([m for m in {names} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_path_of_a_folder(tmp_path):
    with pytest.raises(ZenithError, match="it is a directory"):
        zenith.export_onnx(mlp, (X,), Path(tmp_path), params=PARAMS)


def test_the_tolerance_is_that_of_the_narrowest_float_of_the_program():
    def function(x):
        return jnp.tanh(x.astype(jnp.bfloat16) * 1.7).astype(jnp.float32), jnp.argmax(x, -1)

    validation = zenith.export_onnx(function, (X,)).report.validation
    assert validation.narrowest == "bfloat16" and validation.ok
    assert default_tolerance("float32", "bfloat16") > default_tolerance("float32") > default_tolerance("int32") == 0


@pytest.mark.parametrize(
    "function",
    [jnp.fft.fft, jnp.conj, lambda x: x - 1j * x, jnp.imag, jnp.fft.irfft, lambda x: x @ x.T, lambda x: x, jnp.abs],
)
def test_complex_numbers_are_pairs_in_the_file(function):
    x = (RNG.standard_normal((3, 8)) + 1j * RNG.standard_normal((3, 8))).astype(np.complex64)
    export = zenith.export_onnx(function, (x,))
    assert export.report.inputs[0].endswith("float[3, 8, 2]")
    expected = np.asarray(jax.jit(function)(x))
    (found,) = Session(export.model_bytes)([np.stack([x.real, x.imag], -1)])
    joined = found[..., 0] + 1j * found[..., 1] if expected.dtype.kind == "c" else found
    np.testing.assert_allclose(joined, expected, rtol=1e-5, atol=1e-5)


def test_weights_of_which_there_are_shapes_only():
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), PARAMS)
    export = zenith.export_onnx(mlp, (X,), params=shapes, weights="input")
    assert export.report.validation is None and "shapes only" in str(export.report)
    close(Session(export.model_bytes)([*jax.tree.leaves(PARAMS), X]), expected())


def test_a_lowering_that_fails_is_told_like_the_rest(monkeypatch):
    from zenith_mlir.onnx import table

    monkeypatch.setitem(table.LOWERINGS, "stablehlo.tanh", lambda walk, op: [][0])
    with pytest.raises(Unconvertible, match=r"test_onnx_export.py:\d+: stablehlo.tanh: .* a bug: IndexError") as caught:
        zenith.export_onnx(jnp.tanh, (X,))
    assert isinstance(caught.value.__cause__, IndexError)


def test_what_to_install_is_said():
    import subprocess
    import sys

    code = "import sys, zenith_mlir; sys.modules['onnx_ir'] = None; zenith_mlir.export_onnx"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert found.splitlines()[-1].startswith("zenith_mlir.errors.ZenithError")
    assert 'pip install "zenith_mlir[onnx]"' in found


@pytest.mark.parametrize("reverse", [False, True])
def test_rows_of_a_scan_are_stacked_by_the_loop(reverse):
    def scan(xs):
        return jax.lax.scan(lambda c, x: (c + x, c * x), xs[0], xs, reverse=reverse)[1]

    export = zenith.export_onnx(scan, (X,))
    assert "ScatterND" not in export.report.nodes
    close(Session(export.model_bytes)([X]), [np.asarray(jax.jit(scan)(X))])
