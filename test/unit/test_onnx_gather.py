"""Gathers, dynamic slices and updates as jax.numpy makes them, at indices on both sides of the bounds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from jax import lax
from unit.onnx_checks import agrees, same

import zenith_mlir as zenith

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 6, 7)).astype(np.float32)
TABLE = RNG.normal(size=(50, 8)).astype(np.float32)
IDS = np.array([[0, 49, -1], [50, -50, -51]], np.int32)
A = np.array([[0, 4, -1], [5, -5, -6]], np.int32)
B = np.array([[0, 5, -1], [6, -6, -7]], np.int32)
CACHE = RNG.normal(size=(2, 16, 3, 4)).astype(np.float32)
STEP = RNG.normal(size=(2, 1, 3, 4)).astype(np.float32)
STEPS = RNG.normal(size=(2, 5, 3, 4)).astype(np.float32)
LONG = RNG.normal(size=(2, 3, 5000, 2)).astype(np.float32)


def _windows(
    offsets: tuple[int, ...], collapsed: tuple[int, ...], mapped: tuple[int, ...], sizes: tuple[int, ...]
) -> Any:
    numbers = lax.GatherDimensionNumbers(offsets, collapsed, mapped)
    return lambda x, i: lax.gather(x, i, numbers, sizes, mode="clip")


GATHERS: dict[str, tuple[Any, ...]] = {
    "take": (lambda t, i: jnp.take(t, i, axis=0), TABLE, IDS),
    "take_ints": (lambda t, i: jnp.take(t, i, axis=0), TABLE.astype(np.int32), IDS),
    "take_columns": (lambda t, i: jnp.take(t, i, axis=1), TABLE, np.int32(8)),
    "take_wrap": (lambda t, i: jnp.take(t, i, axis=0, mode="wrap"), TABLE, IDS),
    "two_indexes": (lambda x, a, b: x[a, b], X, A, B),
    "indexes_apart": (lambda x, a, b: x[a, :, b], X, A, B),
    "three_indexes": (lambda x, a, b: x[a, b, 3], X, A, B),
    "outer": (lambda x, a, b: x[a[:, :, None], b[:, None, :]], X, A, B),
    "filled_indexes": (lambda x, a, b: x.at[a, :, b].get(mode="fill", fill_value=3.0), X, A, B),
    "second": (lambda x, b: x[:, b], X, B),
    "transposed": (lambda x, a: x.T[:, :, a], X, A),
    "along_1": (lambda x, i: jnp.take_along_axis(x, i, axis=1), X, RNG.integers(-8, 8, (5, 2, 7)).astype(np.int32)),
    "along_1_repeated": (lambda x, i: jnp.take_along_axis(x, i, 1), X, RNG.integers(-8, 8, (5, 2, 1)).astype(np.int32)),
    "label": (lambda x, i: jnp.take_along_axis(x, i[:, None], 1)[:, 0], X[:, 0], np.array([0, 6, -1, 7, -8], np.int32)),
    "rows": (lambda x, i: x[jnp.arange(5), i], X, np.array([0, 5, -1, 6, -7], np.int32)),
    "vmap": (lambda x, i: jax.vmap(lambda r, k: r[k])(x, i), X, RNG.integers(-9, 9, (5, 2)).astype(np.int32)),
    "vmap_scalar": (lambda x, i: jax.vmap(lambda r, k: r[k])(x, i), X, np.array([0, 5, -1, 6, -7], np.int32)),
    "vmap_one_index": (lambda x, i: jax.vmap(lambda r, k: r[k], in_axes=(1, None))(x, i), X, np.int32(3)),
    "vmap_one_array": (lambda x, i: jax.vmap(lambda r, k: r[k], in_axes=(None, 0))(x, i), X, A[0]),
    "vmap_two": (lambda x, i, j: jax.vmap(lambda r, k, m: r[k, m])(x, i, j), X[:2], B, B),
    "vmap_slices": (
        lambda x, i: jax.vmap(lambda r, k: lax.dynamic_slice(r, (k, 0), (3, 2)))(x, i),
        X[:4],
        np.array([0, 7, -1, -20], np.int32),
    ),
    "repeated_ids": (lambda t, i: t[jnp.broadcast_to(i[None], (2, 3))], TABLE, IDS[0]),
    "uint8": (lambda t, i: t[i], TABLE, np.array([0, 255, 49, 50], np.uint8)),
    "int8": (lambda t, i: t[i], TABLE, np.array([0, -1, 49, 50, -50, -51], np.int8)),
    "wrapping": (lambda t, i: t[(i & 65535) * 65537], TABLE, np.array([0, 65535, 65534, 65000], np.int32)),
    "uint32": (lambda t, i: t[i], TABLE, np.array([0, 2**32 - 1, 49, 50, 2**31], np.uint32)),
    "booleans": (lambda t, i: t[i], TABLE > 0, IDS),
    "bfloat16": (lambda t, i: t.astype(jnp.bfloat16)[i].astype(jnp.float32), TABLE, IDS),
    "windows": (_windows((0, 2), (1,), (2, 1), (3, 1, 2)), X, np.array([[0, 0], [9, 9], [-3, 2], [3, 3]], np.int32)),
    "whole_windows": (_windows((1, 2, 3), (), (2, 0), (2, 6, 3)), X, np.array([[0, 0], [9, 9], [-3, 2]], np.int32)),
    "one_window": (_windows((0, 1, 2), (), (2, 0), (2, 6, 3)), X, np.array([9, 3], np.int32)),
    "nearest": (lambda x: jax.image.resize(x, (5, 12, 7), "nearest"), X),
    "argmax": (lambda t: jnp.take(t, jnp.argmax(t, -1), axis=0), TABLE),
    "roll": (lambda x, i: jnp.roll(x, i, axis=1), X, np.int32(3)),
}
SLICES: dict[str, tuple[Any, ...]] = {
    "one": (lambda x, i: lax.dynamic_slice(x, (i, 0, 0), (1, 6, 7)), X),
    "several": (lambda x, i: lax.dynamic_slice(x, (i, i, 0), (1, 3, 7)), X),
    "windows": (lambda x, i: lax.dynamic_slice(x, (i, 2, 0), (3, 3, 2)), X),
    "transposed": (lambda x, i: lax.dynamic_slice(x.transpose(2, 0, 1), (i, i, 0), (3, 1, 2)), X),
    "index": (lambda x, i: x[:, i, 2:4], X),
    "constant": (lambda i: lax.dynamic_slice(jnp.arange(12).reshape(4, 3), (i, i), (2, 1)),),
    "step": (lambda c, u, i: lax.dynamic_update_slice(c, u, (0, i, 0, 0)), CACHE, STEP),
    "steps": (lambda c, u, i: lax.dynamic_update_slice(c, u, (0, i, 0, 0)), CACHE, STEPS),
    "cache_transposed": (
        lambda c, u, i: lax.dynamic_update_slice(c.transpose(0, 2, 1, 3), u.transpose(0, 2, 1, 3), (0, 0, i, 0)),
        CACHE,
        STEP,
    ),
    "two_starts": (lambda c, u, i: lax.dynamic_update_slice(c, u[:, :, :2, :3], (0, i, i - 5, 1)), CACHE, STEP),
    "zeros": (lambda u, i: lax.dynamic_update_slice(jnp.zeros((2, 16, 3, 4)), u, (0, i, 0, 0)), STEP),
    "of_zeros": (lambda c, i: lax.dynamic_update_slice(c, jnp.zeros((2, 1, 3, 4)), (0, i, 0, 0)), CACHE),
    "long": (lambda c, i: lax.dynamic_update_slice(c, c[:, :, :1500], (0, 0, i, 0)), LONG),
    "long_two": (lambda c, i: lax.dynamic_update_slice(c, c[:, :2, :4500], (0, i, i, 0)), LONG),
}
KNOWN: dict[str, tuple[Any, ...]] = {
    "one": (["ScatterND"], lambda c, u: lax.dynamic_update_slice(c, u, (0, 3, 0, 0)), CACHE, STEP),
    "two": (["Slice", "ScatterND"], lambda c, u: lax.dynamic_update_slice(c, u[:, :, :2], (0, 3, 1, 0)), CACHE, STEP),
    "zeros": (["Pad"], lambda u: lax.dynamic_update_slice(jnp.full((2, 16, 3, 4), 2.0), u, (0, 3, 1, 0)), STEP),
    "long": (3 * ["Slice"] + ["Concat"], lambda c: lax.dynamic_update_slice(c, c[:, :, :1500], (0, 0, 7, 0)), LONG),
    "long_two": (None, lambda c: lax.dynamic_update_slice(c, c[:, :2, :4500], (0, 1, 7, 0)), LONG),
    "slice": (["Slice"], lambda x: lax.dynamic_slice(x, (1, 9, 0), (2, 3, 7)), X),
    "positions": (["Gather"], lambda t: t[jnp.broadcast_to(jnp.arange(10)[None] + 3, (2, 10))][0], TABLE),
    "scan": (None, lambda x: lax.scan(lambda c, i: (c + x[i], x[i, 0]), jnp.zeros((6, 7)), jnp.arange(5)), X),
}


STARTS = np.array([0, 3, -1, 20, -40], np.int32)


def _at_every_start(name: str) -> tuple[Any, ...]:
    fn, *args = SLICES[name]
    return lambda starts, *rest: [fn(*rest, start) for start in starts], list(STARTS), *args


@pytest.mark.parametrize("name", GATHERS)
def test_gathers(name: str) -> None:
    agrees(*GATHERS[name])


@pytest.mark.parametrize("name", SLICES)
def test_slices_at_any_start(name: str) -> None:
    agrees(*_at_every_start(name))


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_is_written_into_the_file(name: str) -> None:
    expected, *case = KNOWN[name]
    found = agrees(*case)
    assert expected is None or found == expected


@pytest.mark.parametrize(
    ("fn", "args", "expected"),
    [
        # XLA clamps, jax.numpy counts from the end: one Clip is both.
        (lambda t, i: t[i], (TABLE, IDS), ["Clip", "Gather"]),
        (lambda t, i: jnp.take(t, i, axis=0, mode="clip"), (TABLE, IDS), ["Clip", "Gather"]),
        (lambda t, i: jnp.take(t, i, axis=0), (TABLE, IDS), ["Clip", "Equal", "Gather", "Unsqueeze", "Where"]),
        (lambda t, i: jnp.take(t, i & 31, axis=0), (TABLE, IDS), ["BitwiseAnd", "Gather"]),
        (lambda t, i: t[jnp.clip(i, -3, 3)], (TABLE, IDS), ["Max", "Min", "Gather"]),
        (lambda t: t[jnp.array([3, 1, -1])], (TABLE,), ["Gather"]),
        (lambda x, i: x[:, i], (X, np.int32(1)), ["Clip", "Gather"]),
        (lambda x, i: jnp.take_along_axis(x, i, 1, mode="clip"), (TABLE[:2], IDS), ["Clip", "GatherElements"]),
        (
            lambda c, u, i: lax.dynamic_update_slice(c, u, (0, i, 0, 0)),
            (CACHE, STEP, np.int32(4)),
            ["Clip", "Cast", "Where", "ScatterND"],
        ),
    ],
)
def test_as_few_nodes_as_possible(fn: Any, args: tuple[Any, ...], expected: list[str]) -> None:
    assert agrees(fn, *args) == expected


@pytest.mark.parametrize("opset", [17, 24])
def test_other_opsets(opset: int) -> None:
    for name in ("take", "two_indexes", "along_1", "vmap", "windows"):
        agrees(*GATHERS[name], opset=opset)
    for name in ("one", "windows", "step", "steps", "long"):
        agrees(*SLICES[name], np.int32(2), opset=opset)


def test_by_the_reference() -> None:
    agrees(*GATHERS["take"], reference=True)
    agrees(*GATHERS["two_indexes"], reference=True)
    agrees(*SLICES["step"], np.int32(2), reference=True)


def _symbolic(tokens: Any, x: Any, i: Any) -> list[Any]:
    batch, length, _ = x.shape
    table = jnp.asarray(TABLE)
    return [
        jnp.take(table, tokens, axis=0),
        table[tokens] + x,
        table[jnp.arange(length) + i],
        x[:, i],
        x[:, -1],
        x[jnp.arange(batch), tokens[:, 0]],
        jnp.take_along_axis(x, tokens[:, :, None], axis=1),
        lax.dynamic_slice(x, (0, i, 0), (batch, 1, 8)),
        lax.dynamic_slice(table, (i, 0), (length, 8)),
        lax.dynamic_update_slice(jnp.zeros((batch, 16, 8)), x[:, :1], (0, i, 0)),
        lax.dynamic_update_slice(x, x[:, :2] * 2, (0, i, 0)),
        jax.vmap(lambda c, u, k: lax.dynamic_update_slice(c, u, (k, 0)))(x, x[:, :1] + 1, tokens[:, 0]),
        jax.vmap(lambda r, k: lax.dynamic_slice(r, (k, 0), (2, 8)))(x, tokens[:, 0]),
        x.at[:, i].set(0.0),
        x.at[:, tokens[0]].set(0.0),
        x.at[tokens[:, 0]].add(1.0),
        jnp.sort(x, axis=1),
        jnp.argsort(tokens.reshape(-1)),
        lax.top_k(x, 3)[0],
    ]


def test_symbolic_sizes() -> None:
    def inputs(batch: int, length: int) -> tuple[Any, ...]:
        tokens = RNG.integers(-60, 60, (batch, length)).astype(np.int32)
        return tokens, RNG.normal(size=(batch, length, 8)).astype(np.float32), np.array(length - 1, np.int32)

    dynamic = {"tokens": "b, s", "x": "b, s, _"}
    constraints = ("s <= 50", "s >= 2")
    export = zenith.export_onnx(
        _symbolic, inputs(2, 5), dynamic=dynamic, dynamic_constraints=constraints, validate=False, progress=False
    )
    session = onnxruntime.InferenceSession(export.model_bytes, providers=["CPUExecutionProvider"])
    names = ("tokens", "x", "i")
    for sizes in ((2, 5), (3, 7), (1, 30)):
        given = inputs(*sizes)
        gots = session.run(None, dict(zip(names, given, strict=True)))
        for got, want in zip(gots, jax.jit(_symbolic)(*given), strict=True):
            same(np.asarray(got), np.asarray(want))
