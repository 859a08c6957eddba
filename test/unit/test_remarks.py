"""Remarks: their text, their JSON, their place."""

import json

import numpy as np
import pytest
from jaxlib.mlir import ir

import zenith_mlir as zenith
from zenith_mlir import PassContext, Remark, Target
from zenith_mlir.ir.context import make_context

pytestmark = pytest.mark.once

MISSED = Remark(
    "missed",
    "fuse-attention",
    "zenith.attention",
    "main",
    "model.py",
    12,
    3,
    "head size 60 is not a multiple of 8",
    "pad the head dimension",
)
PASSED = Remark("passed", "raise-attention", "zenith.attention", "main", "model.py", 12, 3, args={"causal": True})


def test_text() -> None:
    assert MISSED.text() == (
        "model.py:12:3: remark: [missed] fuse-attention: head size 60 is not a multiple of 8; pad the head dimension"
    )
    assert PASSED.text() == "model.py:12:3: remark: [passed] raise-attention: zenith.attention (causal=true)"
    chosen = Remark("passed", "lower-kernels", "zenith.attention", reason="cpu.flash", args={"block": 64, "on": "cpu"})
    assert chosen.message == "zenith.attention (block=64, on=cpu): cpu.flash"
    assert Remark("analysis", "p", reason="why").text() == "<unknown>:0:0: remark: [analysis] p: why"


def test_json() -> None:
    assert json.loads(PASSED.to_json()) == {
        "kind": "passed",
        "pass": "raise-attention",
        "op": "zenith.attention",
        "function": "main",
        "file": "model.py",
        "line": 12,
        "col": 3,
        "reason": "",
        "suggest": "",
        "args": {"causal": True},
    }
    assert "\n" not in Remark("missed", "p", reason="two\nlines").to_json()
    assert json.loads(Remark("passed", "p", args={"n": np.int64(3), "x": np.float32(0.5)}).to_json())["args"] == {
        "n": 3,
        "x": 0.5,
    }


@pytest.mark.parametrize("remark", [MISSED, PASSED, Remark("failure", "p", reason='"quoted" é\n')])
def test_json_reads_back(remark: Remark) -> None:
    assert Remark.from_json(remark.to_json()) == remark


def test_context_fills_in_place_and_function() -> None:
    text = """
    func.func @f(%x: tensor<2xf32>) -> tensor<2xf32> {
      %0 = stablehlo.sine %x : tensor<2xf32> loc("model.py":7:9)
      %1 = stablehlo.cosine %0 : tensor<2xf32> loc(unknown)
      return %1 : tensor<2xf32>
    }"""
    module = ir.Module.parse(text, make_context())
    sine, cosine, *_ = module.body.operations[0].body.blocks[0].operations
    ctx = PassContext(Target.parse("none"), pass_name="p")
    ctx.passed(sine, "zenith.x", scale=2)
    ctx.missed(cosine, "zenith.x", "why", suggest="what", near=1)
    ctx.analysis(sine, "", "fact")
    ctx.failure(sine, "", "no")
    ctx.count("seen")
    ctx.count("seen", 2)
    assert ctx.remarks == [
        Remark("passed", "p", "zenith.x", "f", "model.py", 7, 9, args={"scale": 2}),
        Remark("missed", "p", "zenith.x", "f", "<unknown>", 0, 0, "why", "what", {"near": 1}),
        Remark("analysis", "p", "", "f", "model.py", 7, 9, "fact"),
        Remark("failure", "p", "", "f", "model.py", 7, 9, "no"),
    ]
    assert ctx.statistics["seen"] == 3


def test_numerics_are_checked() -> None:
    with pytest.raises(zenith.ZenithError, match="exact, sound, fast, not 'sloppy'"):
        PassContext(Target.parse("none"), "sloppy")  # type: ignore[arg-type]
