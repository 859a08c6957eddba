"""Compiling modules that came from text and calling them."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from zenith_mlir.ir.executable import ExecutableError, compile_module
from zenith_mlir.module import Module
from zenith_mlir.target import Target


def compiled(main, attributes="", **options):
    return compile_module(Module.parse(f"module @m {attributes} {{ {main} }}"), **options)


ADD = """func.func public @main(%a: tensor<2x3xf32>, %b: tensor<2x3xf32> loc("bias")) -> tensor<2x3xf32> {
  %0 = stablehlo.add %a, %b : tensor<2x3xf32>
  return %0 : tensor<2x3xf32>
}"""
ONES = np.ones((2, 3), "float32")


def identity(*types):
    names = [f"%a{i}" for i in range(len(types))]
    arguments = ", ".join(f"{name}: {type_}" for name, type_ in zip(names, types, strict=True))
    results = f"return {', '.join(names)} : {', '.join(types)}" if types else "return"
    return f"func.func public @main({arguments}) -> ({', '.join(types)}) {{ {results} }}"


def unary(operation):
    return f"""func.func public @main(%a: tensor<f32>) -> tensor<f32> {{
      %0 = {operation} : (tensor<f32>) -> tensor<f32>
      return %0 : tensor<f32>
    }}"""


def test_call_with_numpy_and_jax_arrays():
    executable = compiled(ADD)
    for other in (2 * ONES, jnp.asarray(2 * ONES)):
        results = executable(ONES, other)
        assert type(results) is tuple
        assert isinstance(results[0], jax.Array)
        np.testing.assert_array_equal(results[0], 3 * ONES)
    np.testing.assert_array_equal(executable(ONES, np.asfortranarray(ONES * 2)[...])[0], 3 * ONES)
    np.testing.assert_array_equal(executable(np.broadcast_to(np.float32(1), (2, 3)), ONES[::-1])[0], 2 * ONES)


@pytest.mark.parametrize(
    ("mlir", "dtype"),
    [
        ("f64", "float64"),
        ("f32", "float32"),
        ("f16", "float16"),
        ("bf16", ml_dtypes.bfloat16),
        ("f8E4M3FN", ml_dtypes.float8_e4m3fn),
        ("i64", "int64"),
        ("ui64", "uint64"),
        ("i32", "int32"),
        ("i16", "int16"),
        ("i8", "int8"),
        ("ui8", "uint8"),
        ("i4", ml_dtypes.int4),
        ("ui4", ml_dtypes.uint4),
        ("i1", "bool"),
        ("complex<f32>", "complex64"),
        ("complex<f64>", "complex128"),
    ],
)
def test_every_dtype_passes_through_unchanged(mlir, dtype):
    assert not jax.config.jax_enable_x64
    array = np.array([0, 1, 1]).astype(dtype)
    (result,) = compiled(identity(f"tensor<3x{mlir}>"))(array)
    assert result.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(np.asarray(result), array)


def test_f64_is_computed_in_f64():
    body = """func.func public @main(%a: tensor<f64>) -> tensor<f64> {
      %c = stablehlo.constant dense<1.0e-12> : tensor<f64>
      %0 = stablehlo.add %a, %c : tensor<f64>
      return %0 : tensor<f64>
    }"""
    assert float(compiled(body)(1.0)[0]) == 1.0 + 1e-12


def test_results_are_fed_back():
    executable = compiled(identity("tensor<2xf64>"))
    assert executable(*executable(np.ones(2)))[0].dtype == "float64"


def test_unused_arguments_and_no_results():
    nothing = compiled("func.func public @main(%a: tensor<3xf32>, %b: tensor<0x2xi32>) { return }")
    assert nothing(np.ones(3, "float32"), np.ones((0, 2), "int32")) == ()
    assert compiled("func.func public @main() { return }")() == ()
    second = """func.func public @main(%a: tensor<3xf32>, %b: tensor<f32>) -> tensor<f32> {
      return %b : tensor<f32>
    }"""
    assert compiled(second)(np.ones(3, "float32"), np.float32(4))[0] == 4


def test_python_scalars_fit_rank_zero():
    f32, i8, i1 = compiled(identity("tensor<f32>", "tensor<i8>", "tensor<i1>"))(2, 3, True)
    assert (f32.dtype, i8.dtype, i1.dtype) == ("float32", "int8", "bool")


@pytest.mark.parametrize("attribute", ["jax.buffer_donor = true", "tf.aliasing_output = 0 : i32"])
@pytest.mark.parametrize("make", [jnp.asarray, np.asarray])
def test_donated_arguments_stay_the_callers(attribute, make):
    text = f"""
    func.func public @main(%a: tensor<1024xf32> {{{attribute}}}, %b: tensor<f32>) -> tensor<1024xf32> {{
      %0 = stablehlo.broadcast_in_dim %b, dims = [] : (tensor<f32>) -> tensor<1024xf32>
      %1 = stablehlo.add %a, %0 : tensor<1024xf32>
      return %1 : tensor<1024xf32>
    }}"""
    executable = compiled(text)
    array = make(np.arange(1024, dtype="float32"))
    for _ in range(2):
        (result,) = executable(array, 1.0)
        np.testing.assert_array_equal(result, np.arange(1, 1025))
        np.testing.assert_array_equal(array, np.arange(1024))
    assert executable.memory_analysis().alias_size_in_bytes == 4096


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((), r"main takes 2 arrays, got 0; it is main\(float32\[2,3\], float32\[2,3\]\)"),
        ((ONES,), "takes 2 arrays, got 1"),
        ((ONES, ONES, ONES), "takes 2 arrays, got 3"),
        ((ONES, ONES.T), r"argument 1 .*is float32\[2,3\], got float32\[3,2\]"),
        ((ONES.astype("float64"), ONES), r"argument 0 .*is float32.*, got float64\[2,3\]; reshape or"),
        ((1.0, ONES), r"argument 0 .*got float64\[\]"),
        ((ONES, [[1, 2, 3]] * 2), r"argument 1 .*got int64"),
        ((ONES, "text"), r"argument 1 .*got <U4"),
        ((ONES, None), r"argument 1 .*got object"),
        ((jax.random.key(0), ONES), r"argument 0 .*got key<fry>\[\]"),
    ],
)
def test_arguments_that_do_not_fit(arrays, message):
    with pytest.raises(ExecutableError, match=message):
        compiled(ADD)(*arrays)


def test_names_of_arguments_in_messages():
    with pytest.raises(ExecutableError, match=r"argument 1 \(bias\)"):
        compiled(ADD)(ONES, 1.0)


def test_cannot_be_traced():
    executable = compiled(ADD)
    with pytest.raises(ExecutableError, match="cannot be traced"):
        jax.jit(executable)(ONES, ONES)


def test_analyses_have_jaxs_names():
    lowered = jax.jit(lambda a, b: a + b).lower(ONES, ONES)
    ours, theirs = compile_module(Module.parse(lowered.as_text())), lowered.compile()
    assert ours.cost_analysis()["flops"] == theirs.cost_analysis()["flops"] == 6
    assert ours.memory_analysis().argument_size_in_bytes == 48
    for name in ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes"):
        assert getattr(ours.memory_analysis(), name) == getattr(theirs.memory_analysis(), name)
    assert "HloModule" in ours.as_text()


def test_compiler_options():
    assert compiled(ADD, compiler_options={"xla_disable_hlo_passes": "cse"})(ONES, ONES)
    with pytest.raises(ExecutableError, match="xla_no_such"):
        compiled(ADD, compiler_options={"xla_no_such": "1"})


def test_the_module_stays_as_it_is():
    module = Module.parse(f"module @m {{ {ADD} }}")
    before = module.text(debug_info=True)
    compile_module(module)
    assert module.text(debug_info=True) == before


def test_composites_are_compiled_by_their_decomposition():
    executable = compiled(
        """
        func.func private @twice(%a: tensor<f32>) -> tensor<f32> {
          %0 = stablehlo.add %a, %a : tensor<f32>
          return %0 : tensor<f32>
        }
        func.func public @main(%a: tensor<f32>) -> tensor<f32> {
          %0 = stablehlo.composite "zenith.twice" %a {decomposition = @twice} : (tensor<f32>) -> tensor<f32>
          return %0 : tensor<f32>
        }"""
    )
    assert executable(1)[0] == 2


def test_chlo_and_calls():
    executable = compiled(
        """
        func.func public @main(%a: tensor<f32>) -> tensor<f32> {
          %0 = call @f(%a) : (tensor<f32>) -> tensor<f32>
          return %0 : tensor<f32>
        }
        func.func private @f(%a: tensor<f32>) -> tensor<f32> {
          %0 = chlo.erf %a : tensor<f32> -> tensor<f32>
          return %0 : tensor<f32>
        }"""
    )
    assert abs(float(executable(1.0)[0]) - 0.8427008) < 1e-6


def test_linear_algebra_in_a_fresh_process(tmp_path):
    """LAPACK is set up by JAX's lowering rules only; a module read from a file has not met them."""
    file = tmp_path / "cholesky.mlir"
    file.write_text(jax.jit(jnp.linalg.cholesky).lower(np.eye(3, dtype="float32")).as_text())
    program = (
        "import sys, numpy as np, zenith_mlir.module as m\n"
        "f = m.Module.parse(open(sys.argv[1]).read()).compile()\n"
        "print(f(4 * np.eye(3, dtype='float32'))[0].tolist())\n"
        "import jax.numpy as jnp\n"
        "jnp.linalg.cholesky(np.eye(3, dtype='float32'))  # JAX's own, after our imports\n"
    )
    done = subprocess.run([sys.executable, "-c", program, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]\n", done.stderr


@pytest.mark.parametrize("target", [None, "cpu", Target.parse("cpu:avx2")])
def test_targets(target):
    assert compiled(ADD, target=target)(ONES, ONES)[0].devices() == {jax.devices("cpu")[0]}


@pytest.mark.parametrize(
    ("main", "message"),
    [
        ("func.func public @other() { return }", "no function @main"),
        (identity("!stablehlo.token"), "argument 0 of main is a token"),
        (identity("tuple<tensor<f32>>"), "argument 0 of main is tuple"),
        (identity("tensor<?x3xf32>"), r"argument 0 of main is tensor<\?x3xf32>, a shape known only when"),
        (unary("stablehlo.custom_call @xla_ffi_python_cpu_callback(%a)"), "calls back into Python"),
        (
            unary("stablehlo.custom_call @nobody(%a) {api_version = 4 : i32, backend_config = {}}"),
            "XLA does not compile this module for cpu: .*nobody",
        ),
        (unary('"arith.negf"(%a)'), "arith.negf"),
    ],
)
def test_modules_that_cannot_be_compiled(main, message):
    with pytest.raises(ExecutableError, match=message):
        compiled(main)


@pytest.mark.parametrize("name", ["mhlo.num_partitions", "mhlo.num_replicas"])
def test_modules_for_several_devices_are_refused(name):
    assert compiled(ADD, f"attributes {{{name} = 1 : i32}}")(ONES, ONES)
    with pytest.raises(ExecutableError, match=f"4 devices.*{name}"):
        compiled(ADD, f"attributes {{{name} = 4 : i32}}")


def test_platforms_that_are_not_here():
    with pytest.raises(ExecutableError, match="none describes no machine"):
        compiled(ADD, target="none")
    if jax.default_backend() == "cpu":
        with pytest.raises(ExecutableError, match="no cuda device here; compile for one of: cpu"):
            compiled(ADD, target="cuda:sm_90")


def test_the_same_results_as_jit():
    """A training step with a loop, random numbers, a convolution and mixed precision."""

    def loss(w, x, key):
        layout = ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(x, w["conv"], (1, 1), "SAME", dimension_numbers=layout)
        h = h.reshape(2, 16, 4).astype(jnp.bfloat16)
        h, _ = jax.lax.scan(lambda c, k: (jnp.tanh(c @ k), None), h, w["layers"].astype(jnp.bfloat16))
        keep = jax.random.bernoulli(jax.random.wrap_key_data(key), 0.9, h.shape)
        return jnp.where(keep, jax.nn.log_softmax(h.astype("float32")), 0).mean()

    rng = np.random.default_rng(0)
    w = {
        "conv": rng.standard_normal((3, 3, 2, 4)).astype("float32"),
        "layers": rng.standard_normal((5, 4, 4)).astype("float32"),
    }
    x, key = rng.standard_normal((2, 4, 4, 2)).astype("float32"), np.array([0, 7], "uint32")
    step = jax.jit(jax.value_and_grad(loss))
    module = Module.parse(step.lower(w, x, key).as_text())
    results = compile_module(module)(*jax.tree.leaves((w, x, key)))
    for ours, theirs in zip(results, jax.tree.leaves(step(w, x, key)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
