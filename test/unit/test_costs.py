"""The cost model of the CPU: what it weighs, whom it believes, and what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from attention_programs import RAISED, array

import zenith_mlir as zenith
from zenith_mlir.dialects.attention import AttentionSpec
from zenith_mlir.dialects.implementation import Request, TensorSpec, Work
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.dialects.table import OPS
from zenith_mlir.errors import ZenithError
from zenith_mlir.kernels.cpu import costs
from zenith_mlir.target import Target

pytestmark = pytest.mark.once

Prices = Callable[..., None]


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prices:
    """Sets what a call costs, in nanoseconds, on either side."""

    def give(kernel: float, xla: float, op: str = "zenith.attention", isa: str = "portable") -> None:
        table = {isa: {op: {"float32": {"kernel": {"call": kernel}, "xla": {"call": xla}}}}}
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps(table))
        monkeypatch.setenv(costs.VARIABLE, str(path))

    return give


def lowered(pipeline: str = "default", program: int = 0, **options: Any) -> tuple[int, list[str]]:
    """The kernel calls in a program with one attention, and why there is none."""
    program_ = RAISED[program]
    module = zenith.trace(program_.function, *program_.arguments).run(pipeline, target="cpu", **options)
    missed = [r.reason for r in module.remarks if r.pass_name == "lower-kernels" and r.kind == "missed"]
    return module.text().count("custom_call @zenith_attention"), missed


def test_the_cheaper_side_is_chosen(prices: Prices) -> None:
    prices(kernel=1e3, xla=2e3)
    assert lowered() == (1, [])
    prices(kernel=2e6, xla=1.5e3)
    assert lowered() == (0, ["it would not pay here: about 2 ms as a kernel, 1.5 us as XLA compiles it"])


def test_a_draw_is_the_kernels(prices: Prices) -> None:
    prices(kernel=1.05e3, xla=1e3)
    assert lowered() == (1, [])


@pytest.mark.parametrize(
    "pipeline", ["prepare,raise-attention,lower-kernels{cost-model=false}", "fuse-attention{min-seq=0}"]
)
def test_the_user_overrules_it(prices: Prices, pipeline: str) -> None:
    prices(kernel=2e6, xla=1e3)
    assert lowered(pipeline) == (1, [])


def test_an_op_that_nobody_measured_is_fused(prices: Prices) -> None:
    prices(kernel=2e6, xla=1e3, op="zenith.other")
    assert lowered() == (1, [])


def test_forward_and_backward_are_weighed_together(prices: Prices) -> None:
    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return (jax.nn.softmax(q @ k.T) @ v).sum()

    def calls() -> int:
        arguments = array(8, 4), array(9, 4, seed=1), array(9, 4, seed=2)
        return zenith.trace(jax.grad(attend, argnums=(0, 1, 2)), *arguments).run("default").text().count("@zenith_att")

    prices(kernel=2e6, xla=1e3)  # the forward's alone is not asked
    assert calls() == 2
    prices(kernel=2e6, xla=1e3, op="zenith.attention_vjp")
    assert calls() == 0


def test_a_wider_instruction_set_falls_back_on_a_narrower_ones_prices(
    prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZENITH_CPU_ISA", raising=False)
    work = Work("float32", {"call": 1}, {"call": 1})
    prices(kernel=2e6, xla=1e3, isa="avx512")
    assert costs.refuse("zenith.attention", work, Target.parse("cpu:amx")) is not None
    assert costs.refuse("zenith.attention", work, Target.parse("cpu:avx2")) is None
    monkeypatch.setenv("ZENITH_CPU_ISA", "avx2")
    assert costs.refuse("zenith.attention", work, Target.parse("cpu:amx")) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"avx2": 1}', '{"avx2": {"op": {"float32": {"kernel": {"call": "x"}}}}}'])
def test_a_bad_table_is_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text)
    monkeypatch.setenv(costs.VARIABLE, str(path))
    with pytest.raises(ZenithError, match=r"costs.json is no table of costs .*unset ZENITH_CPU_COSTS"):
        costs.lines("zenith.attention", "float32", Target.parse("cpu"))


def test_the_table_is_of_ops_that_are_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(costs.VARIABLE, raising=False)
    table = json.loads(Path(costs.__file__).with_name("costs.json").read_text())
    weighed = {name for name, op in OPS.items() if any(row.work for row in op.implementations)}
    assert {op for ops in table.values() for op in ops} <= weighed
    for op, dtype in [
        ("zenith.attention", "float32"),
        ("zenith.attention_vjp", "float32"),
        ("zenith.matmul", "bfloat16"),
    ]:
        assert costs.lines(op, dtype, Target.parse("cpu:amx")), op


def spec(**steps: Any) -> AttentionSpec:
    layouts = {
        name: Layout.parse(text) for name, text in {"q": "b t d", "k": "b s d", "v": "b s e", "out": "b t e"}.items()
    }
    attributes = {"axes": {"b": 2, "t": 64, "s": 64, "d": 8, "e": 8}, **layouts}
    return AttentionSpec(**attributes, **steps)


def work(attention: AttentionSpec) -> Work:
    import numpy as np

    tensor = TensorSpec((2, 64, 8), np.dtype(np.float32))
    (implementation,) = (row for row in OPS["zenith.attention"].implementations if row.platform == "cpu")
    assert implementation.work is not None
    found = implementation.work(Request(attention, (tensor,) * 3, (tensor,), Target.parse("cpu")))
    assert found is not None
    return found


def test_a_band_spares_the_kernel_what_it_hides() -> None:
    from zenith_mlir.dialects.attention import Step

    plain, causal = work(spec()), work(spec(steps=(Step("band", -1e9, high=0),)))
    assert plain.kernel["products"] == 2 * 64 * 64 * 16
    assert causal.kernel["products"] == 2 * (64 * 65 / 2) * 16
    assert causal.xla["products"] == plain.xla["products"]
