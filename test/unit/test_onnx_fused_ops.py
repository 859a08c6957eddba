"""Rotary embeddings, group norms, cross-entropies and products in ONNX: programs that are raised, and what is hard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cross_entropy_programs
import jax
import jax.numpy as jnp
import norm_programs
import numpy as np
import pytest
import rotary_programs
from unit.onnx_checks import op_types, run_model, same

import zenith_mlir as zenith
from zenith_mlir import ops
from zenith_mlir.onnx.model import Interface, build_model
from zenith_mlir.onnx.options import Options

pytestmark = pytest.mark.once

Function = Callable[..., Any]


def agrees(function: Function, arguments: Sequence[Any], passes: str, tolerance: float = 1e-6, opset: int = 23) -> Any:
    """The operators, after holding the model to the decomposition, operation by operation."""
    shown = lambda *args: jax.tree.map(lambda y: y.astype(jnp.float32), function(*args))  # noqa: E731
    module = zenith.trace(shown, *arguments).run(f"prepare,{passes}")
    chosen, plain = (build_model(module, Interface(), Options(opset, **each))[0] for each in ({}, {"fused": "never"}))
    arrays = [np.asarray(x) for x in arguments]
    for got, want in zip(run_model(chosen, arrays), run_model(plain, arrays), strict=True):
        same(got, want, tolerance)
    return op_types(chosen)


# What is around the others, gathers, scatters and complex numbers, is not of this file.
ROTARY = [p for p in rotary_programs.RAISED if not {"complex", "gathered", "written"} & set(p.name.split())]


@pytest.mark.parametrize("program", ROTARY[::3], ids=lambda program: program.name)
def test_rotary(program: Any) -> None:
    narrow = program.arguments[0].dtype == jnp.bfloat16
    types = agrees(program.function, program.arguments, "raise-rotary", 1e-2 if narrow else 1e-6)
    assert types.count("RotaryEmbedding") == 1


X = rotary_programs.X


def turned(x: Any, cos: Any, sin: Any) -> Any:
    return ops.rotary(x, cos[:, None], sin[:, None])


def test_tables_of_features_only_where_halves_are_known_to_be_alike() -> None:
    cos, sin = (jnp.asarray(np.random.default_rng(i).standard_normal((X.shape[1], X.shape[3] // 2))) for i in (0, 1))
    twice = [jnp.concatenate([table, table], -1) for table in (cos, sin)]
    assert "RotaryEmbedding" not in agrees(turned, (X, *twice), "simplify")
    unlike = np.asarray(jnp.concatenate([cos, -cos], -1))
    assert "RotaryEmbedding" not in agrees(lambda x: turned(x, unlike, unlike), (X,), "simplify")
    known = [np.asarray(table) for table in twice]
    assert "RotaryEmbedding" in agrees(lambda x: turned(x, *known), (X,), "simplify")
    assert "RotaryEmbedding" in agrees(lambda x, c: turned(x, *[jnp.concatenate([c, c], -1)] * 2), (X, cos), "simplify")


def test_rotary_before_opset_23() -> None:
    assert "RotaryEmbedding" not in agrees(
        rotary_programs.halves, (X, rotary_programs.ANGLES), "raise-rotary", opset=22
    )


@pytest.mark.parametrize("name", norm_programs.GROUPS)
@pytest.mark.parametrize("far", [0.0, 1e3])
def test_group_norms(name: str, far: float) -> None:
    """Far from 0 nothing is to be lost beyond what float32 loses. Flax loses more, in the mean of the squares."""
    if far and name == "flax":
        return
    function, image, *_ = norm_programs.GROUPS[name]
    vectors = [norm_programs.array(12, seed=seed) for seed in (1, 2)]
    if name == "channels first":
        vectors = [norm_programs.array(image.shape[1], seed=seed) for seed in (1, 2)]
        function = norm_programs.over((1,), image.shape[1], 1, 1)
    types = agrees(function, (image + far, *vectors), "raise-layernorm", 1e-6 if not far else 5e-4)
    assert types.count("LayerNormalization") == 1 and "Sqrt" not in types


LOSSES = [p for p in cross_entropy_programs.LOSSES if p.name not in ("z-loss", "z-loss rule", "lse minus one-hot")]


@pytest.mark.parametrize("program", LOSSES[::3], ids=lambda program: program.name)
def test_losses(program: Any) -> None:
    narrow = program.name == "bfloat16"
    types = agrees(program.function, program.arguments, "raise-cross-entropy", 1e-2 if narrow else 1e-6)
    assert "LogSoftmax" in types


INF, NAN = np.inf, np.nan
LOGITS = np.asarray(
    [[INF, 1, 2], [-INF, -INF, -INF], [-INF, 1, 2], [INF, NAN, 1], [NAN, 1, 2], [3e38, 1, -3e38],
     [9, -9, 1], [1, 2, 3]],
    np.float32,
)  # fmt: skip


@pytest.mark.parametrize("label", [0, 1, -1, -4, 3])
def test_infinite_logits_and_labels_outside(label: int) -> None:
    labels = np.full(len(LOGITS), label, np.int32)
    integer = lambda x, y: jax.nn.logsumexp(x, -1) - jnp.take_along_axis(x, y[:, None], -1)[:, 0]  # noqa: E731
    one_hot = lambda x, y: -(jax.nn.one_hot(y, 3) * jax.nn.log_softmax(x)).sum(-1)  # noqa: E731
    for function in (integer, lambda x, y: ops.cross_entropy(x, y)):
        assert "LogSoftmax" in agrees(function, (LOGITS, labels), "raise-cross-entropy")
    finite = LOGITS[-2:]
    assert "LogSoftmax" in agrees(one_hot, (finite, labels[-2:]), "raise-cross-entropy")


@pytest.mark.parametrize("activation", [None, "relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh"])
def test_products(activation: str | None) -> None:
    x, w, b = norm_programs.array(2, 5, 8), norm_programs.array(8, 6, seed=1), norm_programs.array(6, seed=2)
    types = agrees(
        lambda x, w, b: ops.matmul(x, w, bias=b, activation=activation, residual=x[..., :6]), (x, w, b), "simplify"
    )
    assert "Reshape" not in types and "Transpose" not in types


def test_batched_products() -> None:
    x, y = norm_programs.array(3, 5, 8), norm_programs.array(3, 8, 6, seed=1)
    assert agrees(lambda x, y: ops.matmul(x, y), (x, y), "simplify") == ["MatMul"]
    agrees(lambda x, y: ops.matmul(x, y[0, :, 0]), (x, y), "simplify")
    narrow = [z.astype(jnp.bfloat16) for z in (x, y)]
    agrees(lambda x, y: ops.matmul(x, y, activation="gelu"), narrow, "simplify", 1e-2)
