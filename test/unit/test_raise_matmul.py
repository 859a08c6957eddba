"""raise-matmul: which products become zenith.matmul, with which steps; that the numbers stay; what is left alone."""

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

BF16, F16, F32 = jnp.bfloat16, jnp.float16, jnp.float32


def array(*shape: int, dtype: Any = BF16, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, F32).astype(dtype)


X, W, B, R = array(6, 40), array(40, 24, seed=1), array(24, seed=2), array(6, 24, seed=3)


@dataclasses.dataclass(frozen=True)
class Raised:
    name: str
    function: Callable[..., jax.Array]
    arguments: tuple[jax.Array, ...]
    layouts: str
    steps: str = ""
    custom_calls: int = 1


def wide(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.lax.dot_general(x, w, (((1,), (0,)), ((), ())), preferred_element_type=F32)


RAISED = [
    Raised("bare", lambda x, w: x @ w, (X, W), "m0 k0, k0 n0 -> m0 n0"),
    Raised("bias", lambda x, w, b: x @ w + b, (X, W, B), "m0 k0, k0 n0 -> m0 n0", "round add"),
    Raised("bias before", lambda x, w, b: b + x @ w, (X, W, B), "m0 k0, k0 n0 -> m0 n0", "round add"),
    Raised("float16", lambda x, w: x @ w, (X.astype(F16), W.astype(F16)), "m0 k0, k0 n0 -> m0 n0"),
    Raised("float32 result", wide, (X, W), "m0 k0, k0 n0 -> m0 n0"),
    Raised(
        "float32 epilogue",
        lambda x, w, b: jax.nn.relu(wide(x, w) + b).astype(BF16),
        (X, W, B.astype(F32)),
        "m0 k0, k0 n0 -> m0 n0",
        "add relu",
    ),
    Raised("residual", lambda x, w, r: r + x @ w, (X, W, R), "m0 k0, k0 n0 -> m0 n0", "round add"),
    Raised("scaled", lambda x, w: jnp.tanh((x @ w) * 0.5), (X, W), "m0 k0, k0 n0 -> m0 n0", "round scale round tanh"),
    Raised(
        "gate",
        lambda x, w, r: jnp.tanh(x @ w) * r,
        (X, W, R),
        "m0 k0, k0 n0 -> m0 n0",
        "round tanh round multiply",
    ),
    Raised("number a row", lambda x, w, r: x @ w + r[:, :1], (X, W, R), "m0 k0, k0 n0 -> m0 n0", "round add"),
    Raised(
        "heads",
        lambda x, w: jnp.einsum("btk,khd->bthd", x, w),
        (array(2, 5, 8), array(8, 3, 4)),
        "m0 m1 k0, k0 n0 n1 -> m0 m1 n0 n1",
    ),
    Raised(
        "heads joined",
        lambda x, w: jnp.einsum("bthd,hdk->btk", x, w),
        (array(2, 5, 3, 4), array(3, 4, 8)),
        "m0 m1 k1 k0, k1 k0 n0 -> m0 m1 n0",
    ),
    Raised("batched", lambda x, w: x @ w, (array(3, 6, 8), array(3, 8, 4)), "p0 m0 k0, p0 k0 n0 -> p0 m0 n0"),
    Raised("transposed", lambda x, w: x @ w.T, (X, array(24, 40)), "m0 k0, n0 k0 -> m0 n0"),
    Raised("with itself", lambda x: x @ x.T, (X,), "m0 k0, n0 k0 -> m0 n0"),
]


def raised(module: zenith.Module) -> list[dict[str, Any]]:
    return [r.args for r in module.remarks if r.pass_name == "raise-matmul" and r.kind == "passed"]


@pytest.mark.parametrize("program", RAISED, ids=lambda program: program.name)
def test_products_are_raised_and_keep_their_numbers(program: Raised) -> None:
    original = zenith.trace(program.function, *program.arguments)
    (found,) = raised(original.run("prepare,raise-matmul", target="cpu"))
    assert (found["layouts"], found["steps"]) == (program.layouts, program.steps)
    fused = original.run("fuse-matmul{cost-model=false}", target="cpu")
    assert fused.text().count("custom_call @zenith_matmul") == 1 and "dot_general" not in fused.text()
    certificate = certify_pair(original, fused, inputs=[("its own", [np.asarray(x) for x in program.arguments])])
    assert certificate.sound, certificate.summary


def test_what_is_used_twice_ends_the_epilogue() -> None:
    def function(x: jax.Array, w: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = x @ w + b
        return jnp.tanh(y), y

    (found,) = raised(zenith.trace(function, X, W, B).run("prepare,raise-matmul", target="cpu"))
    assert found["steps"] == "round add"


def test_a_product_added_to_itself_is_not_a_bias() -> None:
    (found,) = raised(zenith.trace(lambda x, w: (y := x @ w) + y, X, W).run("prepare,raise-matmul", target="cpu"))
    assert found["steps"] == ""


def test_a_maximum_with_another_number_is_no_relu() -> None:
    (found,) = raised(zenith.trace(lambda x, w: jnp.maximum(x @ w, 1), X, W).run("prepare,raise-matmul", target="cpu"))
    assert found["steps"] == ""


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (lambda x, w: x @ w, (X.astype(F32), W.astype(F32))),
        (lambda x, w: x.astype(F32) @ w, (X, W.astype(F32))),
        (lambda x, w: x @ w, (jnp.ones((3, 4), jnp.int8), jnp.ones((4, 5), jnp.int8))),
        (lambda x, w: x @ w, (array(0, 4), array(4, 5))),
    ],
    ids=["float32", "mixed", "int8", "empty"],
)
def test_other_products_are_left_alone(function: Callable[..., jax.Array], arguments: tuple[jax.Array, ...]) -> None:
    module = zenith.trace(function, *arguments).run("prepare,raise-matmul", target="cpu")
    assert "zenith" not in module.text() and raised(module) == []


def test_where_the_target_has_no_kernel_nothing_is_raised() -> None:
    for target in ("none", "cuda:sm_90"):
        assert raised(zenith.trace(lambda x, w: x @ w, X, W).run("prepare,raise-matmul", target=target)) == []


def test_attention_keeps_its_products() -> None:
    def attend(q: jax.Array, k: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        return jax.nn.softmax(q @ k.T) @ v @ w

    lower = "prepare,raise-attention,raise-matmul,lower-kernels{cost-model=false}"
    module = zenith.trace(attend, X, X, X, W).run(lower, target="cpu")
    assert module.text().count("custom_call @zenith_attention") == 1
    assert len(raised(module)) == 1


def test_gradients_of_a_dense_layer() -> None:
    def loss(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ w + b).astype(F32).sum()

    original = zenith.trace(jax.grad(loss, argnums=(0, 1, 2)), X, W, B)
    fused = original.run("fuse-matmul{cost-model=false}", target="cpu")
    assert len(raised(fused)) == 3
    certificate = certify_pair(original, fused, inputs=[("its own", [np.asarray(x) for x in (X, W, B)])])
    assert certificate.sound, certificate.summary
