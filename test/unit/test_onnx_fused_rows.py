"""Softmax, norms and activations in ONNX: every spelling that is raised, and rows that are hard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import activation_programs
import jax
import jax.numpy as jnp
import norm_programs
import numpy as np
import pytest
from softmax_programs import SOFTMAXES
from unit.onnx_checks import op_types, run_model, same

import zenith_mlir as zenith
from zenith_mlir import ops
from zenith_mlir.onnx.model import Interface, build_model
from zenith_mlir.onnx.options import Options

pytestmark = pytest.mark.once

Function = Callable[..., Any]


def convert(function: Function, arguments: Sequence[Any], opset: int = 23, **options: Any) -> Any:
    return build_model(raised(function, arguments), Interface(), Options(opset, **options))[0]


def raised(function: Function, arguments: Sequence[Any]) -> zenith.Module:
    return zenith.trace(function, *arguments).run("prepare,raise-softmax,raise-layernorm,raise-activation")


def agrees(function: Function, arguments: Sequence[Any], opsets: Sequence[int] = (23,), tolerance: float = 1e-6) -> Any:
    """The operators at the first opset, after holding the models of all to the decomposition."""
    shown = lambda *args: jax.tree.map(lambda y: y.astype(jnp.float32), function(*args))  # noqa: E731
    module = raised(shown, arguments)
    plain, *models = (
        build_model(module, Interface(), options)[0] for options in (Options(fused="never"), *map(Options, opsets))
    )
    arrays = [np.asarray(x) for x in arguments]
    wants = run_model(plain, arrays)
    for model in models:
        for got, want in zip(run_model(model, arrays), wants, strict=True):
            same(got, want, tolerance)
    return op_types(models[0])


def tolerance(arguments: Sequence[Any]) -> float:
    return 5e-3 if any(x.dtype == jnp.bfloat16 for x in arguments) else 2e-6


@pytest.mark.parametrize("spelling", norm_programs.SPELLINGS, ids=lambda spelling: spelling.name)
def test_norms(spelling: norm_programs.Spelling) -> None:
    types = agrees(spelling.function, spelling.arguments, (23, 17), tolerance(spelling.arguments))
    expected = {"layer_norm": "LayerNormalization", "rms_norm": "RMSNormalization"}[spelling.op]
    assert types.count(expected) == 1
    assert not {"ReduceMean", "Sqrt", "Div"} & set(types)


SOFTMAX = [p for p in SOFTMAXES if p.name != "router"]


@pytest.mark.parametrize("program", SOFTMAX, ids=lambda program: program.name)
def test_softmaxes(program: Any) -> None:
    types = agrees(program.function, program.arguments, (23,), tolerance(program.arguments))
    assert {"Softmax", "LogSoftmax"} & set(types) and "ReduceMax" not in types


@pytest.mark.parametrize("name", activation_programs.FORMS)
def test_activations(name: str) -> None:
    kind, _, function = activation_programs.FORMS[name]
    x = activation_programs.array(3, 8)
    types = agrees(function, (x,), (23, 17))
    assert types[-2:] == ["Sigmoid", "Mul"] if kind == "silu" else types == ["Gelu"]


X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 40)), jnp.float32)
W, B = X[0] + 2, X[1]


def test_what_is_added_is_first() -> None:
    def program(x: Any, r: Any, w: Any, b: Any) -> Any:
        return [*ops.layer_norm(x, w, b, residual=r), *ops.rms_norm(x, w, residual=r, offset=1.0)]

    types = agrees(program, (X, X[::-1] * 3, W, B), (23, 17))
    assert types.count("LayerNormalization") == 1 and types.count("RMSNormalization") == 1


def test_transposed_rows_are_not_transposed_back() -> None:
    types = agrees(lambda x: jax.nn.softmax(x.T, -1).T * 2.0, (X,))
    assert "Transpose" not in types
    types = agrees(lambda x, w: ops.rms_norm(x.reshape(2, 2, 40).transpose(1, 0, 2), w), (X, W))
    assert types == ["Reshape", "RMSNormalization", "Transpose"]


def test_rows_that_repeat_one_element() -> None:
    agrees(lambda x: jax.nn.softmax(jnp.broadcast_to(x[:, :1], (4, 3)), -1), (X,))
    agrees(lambda x: jax.nn.softmax(x[:, :1], -1), (X.at[0, 0].set(jnp.inf),))


def test_known_weights_are_shifted_at_export() -> None:
    types = agrees(lambda x: ops.rms_norm(x, np.asarray(W), offset=1.0), (X,))
    assert types == ["RMSNormalization"]


HARD = X.at[0].set(-jnp.inf).at[1, 3].set(jnp.nan).at[2, 5].set(jnp.inf).at[3].set(-3e38).at[3, 1].set(-jnp.inf)
FAR = jnp.stack([X[0] * 1e-6, X[1] * 1e18, jnp.full((40,), 7.0), jnp.zeros(40), X[2].at[0].set(jnp.nan), X[3] + 1e3])
POINTS = jnp.asarray([[0.0, -0.0, 1e-30, -1e-30, 5.0, -5.0, -9.0, 40.0, -40.0, 1e30, -1e30, jnp.inf, jnp.nan, -3.0]])
EDGES: dict[str, tuple[Function, Sequence[Any]]] = {
    "softmax": (lambda x: ops.softmax(x), (HARD,)),
    "log_softmax": (lambda x: ops.log_softmax(x), (HARD,)),
    "layer_norm": (lambda x, w, b: ops.layer_norm(x, w, b), (FAR[:5], W, B)),
    "rms_norm": (lambda x, w: ops.rms_norm(x, w), (FAR, W)),
    "gelu": (lambda x: ops.gelu(x, approximate=False), (POINTS,)),
    "gelu_tanh": (lambda x: ops.gelu(x, approximate=True), (POINTS,)),
    "silu": (lambda x: ops.silu(x), (POINTS,)),
}


@pytest.mark.parametrize("name", EDGES)
def test_edges(name: str) -> None:
    """Row by row: a large one must not hide the error of another."""
    function, arguments = EDGES[name]
    want = np.asarray(jax.jit(function)(*arguments))
    for opset in (23, 17):
        model = convert(function, arguments, opset)
        (got,) = run_model(model, [np.asarray(x) for x in arguments])
        for row, expected in zip(*(y.T if y.shape[0] == 1 else y for y in (got, want)), strict=True):
            np.testing.assert_array_equal(np.isnan(row), np.isnan(expected))
            same(row, expected, 2e-6) if row.size > 1 else np.testing.assert_allclose(row, expected, 2e-6, 1e-6)


@pytest.mark.parametrize("halves", ["none", "gate_first", "gate_last"])
@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
def test_swiglu(activation: str, halves: str) -> None:
    act = {"silu": jax.nn.silu, "gelu": lambda x: jax.nn.gelu(x, approximate=False), "relu": jax.nn.relu}[activation]

    def program(x: Any, y: Any) -> Any:
        if halves == "none":
            return act(x) * y
        first, second = jnp.split(x, 2, -1)
        return act(first) * second if halves == "gate_first" else first * act(second)

    types = agrees(program, (X, X[::-1] * 2), (23, 17))
    assert types.count("Split") + types.count("Slice") <= (0 if halves == "none" else 2)


def test_double_is_computed_in_double() -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8)))
        for function in (jax.nn.softmax, jax.nn.silu, jax.nn.gelu, lambda x: ops.rms_norm(x, x[0])):
            model = convert(function, (x,))
            (got,) = run_model(model, [np.asarray(x)])
            same(got, np.asarray(jax.jit(function)(x)), 1e-13)


def test_always_keeps_bfloat16() -> None:
    x = X.astype(jnp.bfloat16)
    for function, expected in (
        (lambda x: ops.softmax(x), "Softmax"),
        (lambda x: ops.layer_norm(x, x[0]), "LayerNormalization"),
        (lambda x: ops.gelu(x), "Gelu"),
        (lambda x: ops.silu(x), "Swish"),
    ):
        model = convert(function, (x,), 24, fused="always")
        assert expected in op_types(model) and "Cast" not in op_types(model)


def test_microsoft_only_where_allowed() -> None:
    x = np.asarray(X)
    allowed, plain = (convert(jax.nn.gelu, (x,), 17, microsoft=allow) for allow in (True, False))
    assert op_types(allowed) == ["FastGelu"] and {node.domain for node in plain.graph} == {""}
    same(run_model(allowed, [x])[0], np.asarray(jax.nn.gelu(x)), 1e-6)
