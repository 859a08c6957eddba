"""raise-attention across loops and checkpoints: what a scan stacks for its backward is computed again there, what
jax.checkpoint repeats is no second attention.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_programs import array

import zenith_mlir as zenith
from zenith_mlir.certify import certify_pair

LAYERS, BATCH, SEQUENCE, HEADS, DEPTH = 3, 2, 12, 2, 4
WIDTH = HEADS * DEPTH


def attend(q: Any, k: Any, v: Any) -> Any:
    x = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(DEPTH)
    x = jnp.where(jnp.tril(jnp.ones((SEQUENCE, SEQUENCE), bool)), x, -1e30)
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(x, axis=-1), v)


def layer_of(attention: Callable[..., Any]) -> Callable[..., Any]:
    def layer(x: Any, weights: Any) -> tuple[Any, None]:
        q, k, v = ((x @ weights[name]).reshape(BATCH, SEQUENCE, HEADS, DEPTH) for name in "qkv")
        return x + jnp.tanh(attention(q, k, v).reshape(x.shape) @ weights["o"]), None

    return layer


def padded_layer(x: Any, weights: Any) -> tuple[Any, None]:
    """A mask of its own for each layer."""

    def masked(q: Any, k: Any, v: Any) -> Any:
        x = jnp.einsum("bthd,bshd->bhts", q, k)
        x = jnp.where(weights["keep"][:, None, None, :] > 0, x, -1e9)
        return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(x, axis=-1), v)

    return layer_of(masked)(x, weights)


layer = layer_of(attend)
saving = jax.checkpoint_policies


def scanned(body: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, weights: (jax.lax.scan(body, x, weights)[0] ** 2).sum()


def unrolled(body: Callable[..., Any]) -> Callable[..., Any]:
    def loss(x: Any, weights: Any) -> Any:
        for i in range(LAYERS):
            x, _ = body(x, jax.tree.map(lambda w, i=i: w[i], weights))
        return (x**2).sum()

    return loss


def arguments() -> tuple[jax.Array, dict[str, jax.Array]]:
    weights = {name: array(LAYERS, WIDTH, WIDTH, seed=i) / np.sqrt(WIDTH) for i, name in enumerate("qkvo")}
    keep = jnp.ones((LAYERS, BATCH, SEQUENCE)).at[1, 0, 5:].set(0.0)
    return array(BATCH, SEQUENCE, WIDTH, seed=9), {**weights, "keep": keep}


# name -> loss, how many attentions it has, and whether they are computed a second time
PROGRAMS: dict[str, tuple[Callable[..., Any], int, bool]] = {
    "scan": (scanned(layer), 1, False),
    "scan from the last layer": (
        lambda x, weights: (jax.lax.scan(layer, x, weights, reverse=True)[0] ** 2).sum(),
        1,
        False,
    ),
    "scan, a mask a layer": (scanned(padded_layer), 1, False),
    "scan, layers under checkpoint": (scanned(jax.checkpoint(layer)), 1, True),
    "scan, checkpoint without barriers": (scanned(jax.checkpoint(layer, prevent_cse=False)), 1, True),
    "scan, attention under checkpoint": (scanned(layer_of(jax.checkpoint(attend))), 1, False),
    "scan, weight products saved": (
        scanned(jax.checkpoint(layer, policy=saving.dots_with_no_batch_dims_saveable)),
        1,
        True,
    ),
    "scan, all products saved": (scanned(jax.checkpoint(layer, policy=saving.dots_saveable)), 1, False),
    "unrolled": (unrolled(layer), LAYERS, False),
    "unrolled, layers under checkpoint": (unrolled(jax.checkpoint(layer)), LAYERS, True),
    "unrolled, attention under checkpoint": (unrolled(layer_of(jax.checkpoint(attend))), LAYERS, False),
}


def traced(loss: Callable[..., Any]) -> zenith.Module:
    return zenith.trace(jax.value_and_grad(loss, argnums=(0, 1)), *arguments())


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_attention_counts_once_and_is_fused_with_its_gradient(name: str) -> None:
    loss, count, repeated = PROGRAMS[name]
    module = traced(loss).run("prepare,raise-attention", target="cpu")
    passed = [r.op for r in module.remarks if r.kind == "passed"]
    assert passed.count("zenith.attention") == passed.count("zenith.attention_vjp") == count
    assert not [r.reason for r in module.remarks if r.kind == "missed"]
    analysis = [r.reason for r in module.remarks if r.kind == "analysis"]
    assert len(analysis) == (count if repeated else 0)
    # Nothing as large as the logits is left between the composites.
    main = module.text().split("func.func public @main")[1].split("\n  }\n")[0]
    assert f"{SEQUENCE}x{SEQUENCE}xf32" not in main


@pytest.mark.once
@pytest.mark.parametrize("name", PROGRAMS)
def test_raised_and_expanded_computes_the_same(name: str) -> None:
    prepared = traced(PROGRAMS[name][0]).run("prepare", target="cpu")
    expanded = prepared.run("raise-attention,expand-composites", target="cpu")
    flat = jax.tree.leaves(arguments())
    for a, b in zip(prepared.compile("cpu")(*flat), expanded.compile("cpu")(*flat), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=1e-6 * np.abs(a).max())


@pytest.mark.parametrize("name", PROGRAMS)
def test_kernels_are_sound(name: str) -> None:
    original = traced(PROGRAMS[name][0])
    rewritten = original.run("prepare,raise-attention,lower-kernels{min-seq=0}", target="cpu")
    assert "@zenith_attention_vjp" in rewritten.text(), [r.reason for r in rewritten.remarks]
    arrays = [np.asarray(x) for x in jax.tree.leaves(arguments())]
    certificate = certify_pair(original, rewritten, inputs=[("its own", arrays)])
    assert certificate.sound, certificate.summary


def test_the_stack_of_probabilities_goes() -> None:
    module = traced(scanned(layer)).run("prepare", target="cpu")
    stack = f"tensor<{LAYERS}x{BATCH}x{HEADS}x{SEQUENCE}x{SEQUENCE}xf32>"
    assert stack in module.text()
    assert stack not in module.run("raise-attention", target="cpu").text()


def test_gradients_inside_a_loop_are_no_repetition() -> None:
    """A scan over training steps holds forward and backward in one body."""
    step = jax.grad(unrolled(layer))

    def train(x: Any, weights: Any) -> Any:
        return jax.lax.scan(lambda x, _: (x - 0.1 * step(x, weights), None), x, None, length=2)[0]

    module = zenith.trace(train, *arguments()).run("prepare,raise-attention", target="cpu")
    passed = [r.op for r in module.remarks if r.kind == "passed"]
    assert passed.count("zenith.attention") == passed.count("zenith.attention_vjp") == LAYERS


def test_what_a_loop_does_not_keep_is_said() -> None:
    """The queries are rounded after the product: what is stacked does not give the probabilities back."""

    def rotated(x: Any, weights: Any) -> tuple[Any, None]:
        q, k, v = ((x @ weights[name]).reshape(BATCH, SEQUENCE, HEADS, DEPTH) for name in "qkv")
        p = jax.nn.softmax(jax.lax.stop_gradient(jnp.einsum("bthd,bshd->bhts", q, k)), axis=-1)
        return x + jnp.einsum("bhts,bshd->bthd", p, v).reshape(x.shape), None

    module = traced(scanned(rotated)).run("prepare,raise-attention", target="cpu")
    missed = [r for r in module.remarks if r.kind == "missed" and r.op == "zenith.attention_vjp"]
    assert len(missed) == 1 and "its loop keeps the probabilities for the gradient" in missed[0].reason


def frozen_then_trained(x: Any, weights: Any, body: Callable[..., Any] = layer) -> Any:
    x = jax.lax.stop_gradient(layer(x, jax.tree.map(lambda w: w[0], weights))[0])
    return (body(x, jax.tree.map(lambda w: w[1], weights))[0] ** 2).sum()


def frozen_scan_then_trained(x: Any, weights: Any, body: Callable[..., Any] = layer) -> Any:
    x = jax.lax.stop_gradient(jax.lax.scan(layer, x, weights)[0])
    return (jax.lax.scan(body, x, weights)[0] ** 2).sum()


def taught(x: Any, weights: Any) -> Any:
    """A scan over layers teaches one layer, in a scan over training steps."""
    target = jax.lax.scan(layer, x, weights)[0]

    def loss(student: Any) -> Any:
        return ((layer(x, student)[0] - target) ** 2).sum()

    def step(student: Any, _: None) -> tuple[Any, None]:
        return jax.tree.map(lambda a, b: a - 0.1 * b, student, jax.grad(loss)(student)), None

    return jax.lax.scan(step, jax.tree.map(lambda w: w[1], weights), None, length=2)[0]


# name -> program, how many of its attentions are computed a second time
TWO_ATTENTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "frozen, trained": (jax.grad(frozen_then_trained, 1), 0),
    "frozen, trained under checkpoint": (jax.grad(partial(frozen_then_trained, body=jax.checkpoint(layer)), 1), 1),
    "scans": (jax.grad(frozen_scan_then_trained, 1), 0),
    "scans, checkpoint": (jax.grad(partial(frozen_scan_then_trained, body=jax.checkpoint(layer)), 1), 1),
    "teacher and student": (taught, 0),
}


@pytest.mark.parametrize("name", TWO_ATTENTIONS)
def test_equal_attentions_are_no_repetition(name: str) -> None:
    function, repeated = TWO_ATTENTIONS[name]
    module = zenith.trace(function, *arguments()).run("prepare,raise-attention", target="cpu")
    assert [r.op for r in module.remarks if r.kind == "passed"].count("zenith.attention") == 2
    assert [r.kind for r in module.remarks].count("analysis") == repeated
