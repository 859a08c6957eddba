"""zenith.attention in ONNX: every program that is raised, as the operator and spelled out, and rows in which nothing or
something huge is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx_ir as oir
import pytest
from attention_programs import RAISED, Program, array, btnh, mask_of
from unit.onnx_checks import op_types, run_model, same

import zenith_mlir as zenith
from zenith_mlir.onnx.model import Interface, build_model
from zenith_mlir.onnx.options import Options
from zenith_mlir.ops import attention

pytestmark = pytest.mark.once

# What may not be an operator: logits or weights meet more than a mask that leaves every row something or a finite fill.
SPELLED = {
    "additive bias", "small additive bias", "subtracted bias", "mask, -inf", "mask as bias", "bias, then mask",
    "mask, then bias", "clipped", "dropout", "head mask", "attention sink", "attention sink in the sum",
    "attention sink under the maximum", "bias that splits the rows",
    "division deferred, sink", "division deferred, sink column", "division deferred, mask", "masked weights",
}  # fmt: skip


def results(function: Callable[..., Any], arguments: Sequence[Any], opset: int, **options: Any) -> Any:
    """What the model computes, its operators, and what the decomposition computes in ONNX, operation by operation."""
    shown = lambda *args: function(*args).astype(jnp.float32)  # noqa: E731
    module = zenith.trace(shown, *arguments).run("prepare,raise-attention")
    chosen, plain = (
        build_model(module, Interface(), Options(opset, **each))[0] for each in (options, {"fused": "never"})
    )
    (got,), (want,) = (run_model(model, [np.asarray(x) for x in arguments]) for model in (chosen, plain))
    return got, op_types(chosen), want


def first(program: Program) -> Callable[..., Any]:
    """Its first result."""
    return lambda *args: jax.tree.leaves(program.function(*args))[0]


@pytest.mark.parametrize("program", RAISED, ids=lambda program: program.name)
def test_programs(program: Program) -> None:
    got, types, want = results(first(program), program.arguments, 23)
    # The decomposition rounds logits and weights to bfloat16 where the program does, zenith ops do not.
    same(got, want, 1e-2 if program.arguments[0].dtype == jnp.bfloat16 else 1e-6)
    assert ("Attention" in types) == (program.name not in SPELLED), types


@pytest.mark.parametrize("program", RAISED[::5], ids=lambda program: program.name)
def test_before_the_operator(program: Program) -> None:
    got, types, want = results(first(program), program.arguments, 17)
    same(got, want, 1e-2 if program.arguments[0].dtype == jnp.bfloat16 else 1e-6)
    assert "Attention" not in types
    assert "Softmax" in types


def test_no_transposes_around_the_operator() -> None:
    q, k, v = btnh()
    causal = lambda q, k, v: attention(q, k, v, is_causal=True)  # noqa: E731
    _, types, _ = results(causal, (q, k, v), 23)
    assert types == ["Reshape", "Reshape", "Reshape", "Attention", "Reshape"]
    spelled = ["Transpose", "Transpose", "MatMul", "Mul", "Min", "Softmax", "Transpose", "MatMul", "Transpose"]
    for batch in (2, 1):
        _, types, _ = results(causal, (q[:batch], k[:batch], v[:batch]), 17)
        assert types == spelled


HUGE = array(2, 5, 3, 4, seed=1).at[0, 1].mul(1e12), array(2, 7, 3, 4, seed=2).at[:, 3].mul(1e5)
EMPTY = mask_of(2, 1, 5, 7).at[0, :, 2].set(False)
EDGES: dict[str, tuple[Callable[..., Any], Sequence[Any]]] = {
    "huge logits": (attention, (*HUGE, array(2, 7, 3, 6, seed=3))),
    "huge logits, causal": (lambda q, k, v: attention(q, k, v, is_causal=True), (*HUGE, array(2, 7, 3, 6, seed=3))),
    "a row that sees nothing": (lambda q, k, v, m: attention(q, k, v, mask=m), (*btnh(), EMPTY)),
    "a row that sees nothing, -inf": (
        lambda q, k, v, m: attention(q, k, v, bias=jnp.where(m, 0.0, -jnp.inf)), (*btnh(), EMPTY)
    ),
    "a row that sees nothing, the lowest number": (
        lambda q, k, v, m: attention(q, k, v, bias=jnp.where(m, 0.0, jnp.finfo(jnp.float32).min)), (*btnh(), EMPTY)
    ),
    "left padding under a causal mask": (
        lambda q, k, v, m: attention(q, k, v, mask=m, is_causal=True),
        (*btnh(), mask_of(2, 1, 1, 7).at[:, :, :, :2].set(False)),
    ),
    "a window beyond the keys": (
        lambda q, k, v: attention(q, k, v, local_window_size=(1, 0)), (array(2, 7, 3, 4), *btnh(s=3)[1:])
    ),
    "lengths": (
        lambda q, k, v, n: attention(q, k, v, key_value_seq_lengths=n), (*btnh(), jnp.asarray([3, 0], jnp.int32))
    ),
    "soft cap and a mask": (lambda q, k, v, m: attention(q, k, v, mask=m, logits_soft_cap=2.0), (*btnh(), EMPTY)),
    "grouped heads and a mask": (
        lambda q, k, v, m: attention(q, k, v, mask=m, is_causal=True), (array(2, 5, 6, 4), *btnh()[1:], EMPTY)
    ),
    "no scale": (lambda q, k, v: attention(q, k, v, scale=0.0), btnh()),
    "a negative scale": (lambda q, k, v: attention(q, k, v, scale=-0.5), btnh()),
    "bias of all": (
        lambda q, k, v, b: attention(q, k, v, bias=b), (*btnh(), array(2, 3, 5, 7).at[0, 1, 2].set(-jnp.inf))
    ),
    "NaN in a query": (attention, (btnh()[0].at[0, 1, 0, 0].set(jnp.nan), *btnh()[1:])),
}  # fmt: skip


@pytest.mark.parametrize("opset", [23, 17])
@pytest.mark.parametrize("name", EDGES)
def test_edges(name: str, opset: int) -> None:
    function, arguments = EDGES[name]
    got, _, want = results(function, arguments, opset)
    same(got, want, 2e-6)


@pytest.mark.parametrize("name", ["a row that sees nothing", "left padding under a causal mask", "bias of all"])
def test_as_xla(name: str) -> None:
    function, arguments = EDGES[name]
    got, _, _ = results(function, arguments, 23)
    same(got, np.asarray(jax.jit(function)(*arguments)), 1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_always_keeps_the_type(dtype: Any) -> None:
    model, _ = build_model(
        zenith.trace(lambda q, k, v: attention(q, k, v), *btnh(dtype=dtype)).run("raise"),
        Interface(),
        Options(fused="always"),
    )
    assert op_types(model) == ["Reshape", "Reshape", "Reshape", "Attention", "Reshape"]


def test_never_is_what_the_program_does() -> None:
    got, types, want = results(attention, btnh(), 23, fused="never")
    same(got, want, 1e-6)
    assert "Softmax" not in types and "Attention" not in types


def test_sizes_with_names(tmp_path: Path) -> None:
    """One file for all sizes: masks are computed from them."""

    def program(x: Any, m: Any) -> Any:
        seen = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool)) & m[:, None, None]
        logits = jnp.where(seen, jnp.einsum("bthd,bshd->bhts", x, x), -2e38)
        return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits), x)

    def arguments(b: int, t: int) -> list[np.ndarray]:
        return [np.asarray(array(b, t, 3, 8)), np.arange(t)[None] < t - np.arange(b)[:, None]]

    path = tmp_path / "model.onnx"
    sizes = {0: {0: "b", 1: "t"}, 1: {0: "b", 1: "t"}}
    for opset in (23, 17):
        zenith.export_onnx(program, arguments(2, 4), path, opset=opset, dynamic=sizes, validate=False)
        model = oir.load(path)
        assert ("Attention" in op_types(model)) == (opset == 23)
        for b, t in ((3, 7), (1, 1)):
            (got,) = run_model(model, arguments(b, t))
            same(got, np.asarray(jax.jit(program)(*arguments(b, t))), 1e-6)
