"""Module: reading, writing, running, and what `main` takes."""

import concurrent.futures
import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import zenith_mlir as zenith
from zenith_mlir.errors import ReadError
from zenith_mlir.ir import serialize
from zenith_mlir.ir.location import source_frame

TEXT = "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {\n  return %x : tensor<4xf32>\n}\n"


@pytest.fixture
def module() -> zenith.Module:
    def f(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ params["w"])

    return zenith.trace(f, {"w": jnp.ones((4, 8))}, jax.ShapeDtypeStruct((2, 4), jnp.float32))


def test_trace_keeps_names_and_lines(module: zenith.Module) -> None:
    specs = [(spec.shape, spec.dtype, spec.name) for spec in module.input_specs]
    assert specs == [((4, 8), np.dtype("float32"), "params['w']"), ((2, 4), np.dtype("float32"), "x")]
    assert __file__ in module.text(debug_info=True)
    assert __file__ not in module.text()


def test_trace_takes_jitted_functions_with_static_arguments() -> None:
    f = jax.jit(lambda x, n: x * n, static_argnums=1)
    assert len(zenith.trace(f, 1.0, 3).input_specs) == 1


@pytest.mark.parametrize(
    ("element", "dtype"),
    [
        ("i1", "bool"),
        ("bf16", ml_dtypes.bfloat16),
        ("f8E4M3FN", ml_dtypes.float8_e4m3fn),
        ("i4", ml_dtypes.int4),
        ("ui8", "uint8"),
        ("complex<f64>", "complex128"),
        ("f16", "float16"),
    ],
)
def test_dtypes(element: str, dtype: object) -> None:
    (spec,) = zenith.load(TEXT.replace("f32", element)).input_specs
    assert (spec.shape, spec.dtype, spec.name) == ((4,), np.dtype(dtype), "arg0")


def test_dynamic_and_missing_inputs() -> None:
    assert zenith.load(TEXT.replace("4x", "?x2x")).input_specs[0].shape == (None, 2)
    with pytest.raises(zenith.ZenithError, match="no function @main"):
        _ = zenith.load(TEXT.replace("@main", "@other")).input_specs
    with pytest.raises(zenith.ZenithError, match="quant"):
        _ = zenith.load(TEXT.replace("4xf32", "4x!quant.uniform<i8:f32, 0.1>")).input_specs


def source_lines(module: zenith.Module) -> list[tuple[str, int]]:
    operations = module.body.operations[0].body.blocks[0].operations
    return [source_frame(op.location)[:2] for op in operations]


@pytest.mark.parametrize("ending", [".mlir", ".mlirbc"])
def test_saved_modules_load_back(module: zenith.Module, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{ending}"
    module.save(path)
    again = zenith.load(path)
    assert source_lines(again) == source_lines(module) != []
    assert zenith.load(str(path)).text() == zenith.load(path.read_bytes()).text() == module.text()
    assert os.listdir(tmp_path) == [path.name]


def test_save_is_whole_or_not_at_all(module: zenith.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.mlir"
    path.write_text("before")
    path.chmod(0o640)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(RuntimeError))
        with pytest.raises(RuntimeError):
            module.save(path)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["model.mlir"]
    module.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    link = tmp_path / "link.mlir"
    link.symlink_to(path)
    module.save(link)
    assert link.is_symlink()


@pytest.mark.parametrize(
    ("path", "says"),
    [("x.txt", ".mlir"), ("/nowhere/x.mlir", "cannot write /nowhere/x.mlir"), ("/x.mlir/", "not ''")],
)
def test_save_refuses(module: zenith.Module, path: str, says: str) -> None:
    with pytest.raises(zenith.ZenithError, match=says):
        module.save(path)


def test_load_formats(module: zenith.Module) -> None:
    for version in ("current", "minimum", "1.0.0"):
        portable = serialize.portable_artifact(zenith.load(TEXT).ir, version)
        assert serialize.format_of(portable) == "portable"
        assert zenith.load(portable).text() == zenith.load(TEXT).text()
    assert serialize.format_of(serialize.bytecode(module.ir)) == "bytecode"
    assert zenith.load(module.text()).text() == module.text()
    assert zenith.load(module.text().encode()).text() == module.text()


def test_portable_artifacts_hold_stablehlo_only() -> None:
    chlo = zenith.trace(jax.scipy.special.erf, 1.0)
    text = chlo.text()
    with pytest.raises(zenith.ZenithError, match="it has chlo\\.erf; run chlo-legalize-to-stablehlo"):
        serialize.portable_artifact(chlo.ir)
    assert chlo.text() == text
    assert serialize.portable_artifact(chlo.run("chlo-legalize-to-stablehlo", target="none").ir)
    for version in ("9.9.9", "x", "1.2"):
        with pytest.raises(zenith.ZenithError, match=f"not '{version}'"):
            serialize.portable_artifact(chlo.ir, version)


def test_load_reads_what_jax_export_serializes() -> None:
    pytest.importorskip("flatbuffers")
    exported = jax.export.export(jax.jit(lambda x: jnp.sin(x) @ x))(jax.ShapeDtypeStruct((4, 4), jnp.float32))
    blob = bytes(exported.serialize())
    assert serialize.format_of(blob) == "export"
    assert zenith.load(blob).text() == zenith.load(exported.mlir_module()).text()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"a\xff", "byte 1 is not UTF-8"),
        (b"hello", r"in:1:1: custom op 'hello' is unknown"),
        ("module {\n foo.bar\n}", r"in:2:2: .*foo"),
        (TEXT.replace("4xf32>\n}", "5xf32>\n}"), r"in:2:\d+: .*type"),
        ("module {" * 5000, "1000 brackets"),
        (b"ML\xefR", "damaged bytecode"),
        (b"ML\xefR\x06garbage\x00more", "damaged bytecode"),
    ],
)
def test_bad_input(source: str | bytes, says: str) -> None:
    with pytest.raises(ReadError, match=says) as caught:
        zenith.Module.parse(source, "in")
    assert "\n" not in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"cannot read .*nothing\.mlir: No such file"):
        zenith.load(tmp_path / "nothing.mlir")
    with pytest.raises(ReadError, match="Is a directory"):
        zenith.load(tmp_path)


def test_bytecode_that_kills_the_reader_is_an_error(module: zenith.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGABRT)"
    monkeypatch.setattr(subprocess, "run", _dying(code))
    with pytest.raises(ReadError, match=r"in.mlirbc: damaged bytecode: MLIR's reader dies on it \(SIGABRT\)"):
        zenith.Module.parse(serialize.bytecode(module.ir), "in.mlirbc")


def _dying(code: str):  # type: ignore[no-untyped-def]
    run = subprocess.run
    return lambda command, **options: run([sys.executable, "-c", code], **options)


def test_flipped_bytes_never_kill_the_process(module: zenith.Module) -> None:
    good = serialize.bytecode(module.ir)
    rng = np.random.default_rng(0)
    for _ in range(6):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] = rng.integers(256)
        with contextlib.suppress(ReadError):
            zenith.load(bytes(bad)).text()


def test_run_makes_a_new_module(module: zenith.Module) -> None:
    before = module.text()
    result = module.run("canonicalize", target="none")
    assert result is not module
    assert result.ir is not module.ir
    assert module.text() == before
    assert module.run("", target="none").text() == before
    assert result.remarks == []


def test_runs_in_threads_do_not_mix(module: zenith.Module) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: module.run("cse,prepare,canonicalize", target="none").text(), range(16)))
    assert len(set(results)) == 1


def test_compile_and_call(module: zenith.Module) -> None:
    w, x = np.ones((4, 8), np.float32), np.full((2, 4), 0.25, np.float32)
    (result,) = module.run("prepare", target="cpu").compile("cpu")(w, x)
    np.testing.assert_allclose(result, np.tanh(x @ w), rtol=1e-5)
