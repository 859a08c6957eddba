"""annotate-offload: the program computes what it did, nothing but placements sees what is on the host, and what is on
its way neither waits too long nor comes too early.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jaxlib.mlir import ir

import zenith_mlir as zenith
from zenith_mlir.context import PassContext
from zenith_mlir.errors import OptionError
from zenith_mlir.ir.executable import compile_module
from zenith_mlir.ir.facts import walk_named
from zenith_mlir.ir.symbols import functions
from zenith_mlir.module import Module
from zenith_mlir.passes.annotate_offload import AnnotateOffload
from zenith_mlir.pipeline import Pipeline
from zenith_mlir.remat.flow import Flow
from zenith_mlir.remat.offload import selfcheck
from zenith_mlir.remat.offload.late import sink_cheap
from zenith_mlir.remat.offload.link import Transfer, arrivals, departures, hides
from zenith_mlir.remat.offload.placement import DEVICE, HOST, is_placement, memory_of, placed
from zenith_mlir.remat.offload.residuals import Order, Residual, residuals
from zenith_mlir.remat.partition import forward_length
from zenith_mlir.target import Target

H100 = "cuda:sm_90"
LAYERS, ROWS, WIDTH = 2, 32, 16
HIDES = "annotate-offload{min-bytes=512 host-bandwidth=100TB/s}"
ALL = "annotate-offload{min-bytes=512 budget=0 scan=true}"
NAMED = "annotate-offload{min-bytes=512 values=mlp}"

Weights = dict[str, jax.Array]


def layer(w: Weights, x: jax.Array) -> jax.Array:
    mean = x.mean(-1, keepdims=True)
    normal = (x - mean) * jax.lax.rsqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-5)
    with jax.named_scope("mlp"):
        h = (normal @ w["up"]).astype(jnp.bfloat16).astype(jnp.float32)
        return x + jax.nn.gelu(h) @ w["down"]


def unrolled(ws: Weights, x: jax.Array) -> jax.Array:
    for i in range(LAYERS):
        x = layer({name: w[i] for name, w in ws.items()}, x)
    return jnp.mean(x * x)


def scanned(ws: Weights, x: jax.Array) -> jax.Array:
    return jnp.mean(jax.lax.scan(lambda x, w: (layer(w, x), None), x, ws)[0] ** 2)


def arguments() -> tuple[Weights, jax.Array]:
    rng = np.random.default_rng(0)
    up, down = rng.normal(size=(LAYERS, WIDTH, 2 * WIDTH)) / 4, rng.normal(size=(LAYERS, 2 * WIDTH, WIDTH)) / 4
    weights = {"down": jnp.asarray(down, jnp.float32), "up": jnp.asarray(up, jnp.float32)}
    return weights, jnp.asarray(rng.normal(size=(ROWS, WIDTH)), jnp.float32)


@functools.cache
def traced(loss: Callable[..., jax.Array]) -> Module:
    return zenith.trace(jax.value_and_grad(loss), *arguments())


def sent(module: Module) -> list[Any]:
    return [remark for remark in module.remarks if remark.kind == "passed" and remark.pass_name == "annotate-offload"]


# ---- The program stays what it was ----


@pytest.mark.parametrize(("loss", "pipeline"), [(unrolled, ALL), (unrolled, f"prepare,{HIDES}"), (scanned, ALL)])
def test_gradients(loss: Callable[..., jax.Array], pipeline: str) -> None:
    module = traced(loss)
    rewritten = module.run(pipeline, target=H100)
    assert sent(rewritten)
    for got, expected in zip(results(rewritten), original(loss), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def results(module: Module) -> list[Any]:
    executable = compile_module(module, "cpu", compiler_options={"xla_backend_optimization_level": 0})
    return [np.asarray(result) for result in executable(*jax.tree.leaves(arguments()))]


@functools.cache
def original(loss: Callable[..., jax.Array]) -> list[Any]:
    return results(traced(loss))


@pytest.mark.once
@pytest.mark.parametrize(("loss", "options"), [(unrolled, ALL), (unrolled, HIDES), (unrolled, NAMED), (scanned, ALL)])
def test_twice_is_once(loss: Callable[..., jax.Array], options: str) -> None:
    once = traced(loss).run(f"prepare,{options}", target=H100)
    twice = once.run(options, target=H100)
    assert once.operation.verify()
    assert twice.text() == once.text()
    assert_only_placements(once)


CORPUS = Path(os.environ.get("ZENITH_CORPUS") or Path(__file__).parents[2] / ".." / "shared" / "corpus")
PROGRAMS = ("hfflax__gpt2", "linen__scan_remat_bf16", "nnx__decoder")
FILES = [path for name in PROGRAMS if (path := CORPUS / f"{name}__train.mlir").exists()]


@pytest.mark.once
@pytest.mark.skipif(not FILES, reason="no corpus: set ZENITH_CORPUS to a folder of .mlir files")
@pytest.mark.parametrize("file", FILES or [Path("absent")], ids=lambda file: file.stem)
def test_corpus(file: Path) -> None:
    once = zenith.load(file).run(f"prepare,{ALL}", target=H100)
    assert once.operation.verify()
    assert sent(once)
    assert once.run(ALL, target=H100).text() == once.text()
    assert_only_placements(once)


_CARRIERS = ("stablehlo.reshape", "stablehlo.broadcast_in_dim", "stablehlo.dynamic_slice")


def assert_only_placements(module: Module) -> None:
    """What is on the host goes through stacks and barriers to placements on the device, and nowhere else: XLA computes
    on the host what it meets on the way.
    """
    stack = [op.results[0] for op in walk_named(module.operation, "stablehlo.custom_call") if memory(op) == HOST]
    assert stack
    seen: set[Any] = set()
    while stack:
        value = stack.pop()
        for use in value.uses:
            op, i = use.owner.operation, use.operand_number
            if value in seen or memory(op) == DEVICE:
                continue
            if op.name in _CARRIERS or op.name == "stablehlo.dynamic_update_slice":
                stack.append(op.results[0])
            elif op.name == "stablehlo.optimization_barrier":
                stack.append(op.results[i])
            elif op.name in ("stablehlo.while", "stablehlo.return"):
                loop = op if op.name == "stablehlo.while" else op.parent.operation
                stack += [loop.results[i], *(region.blocks[0].arguments[i] for region in loop.regions)]
            else:
                pytest.fail(f"{op.name} uses a value on the host")
        seen.add(value)


def memory(op: ir.Operation) -> str:
    return memory_of(op) if is_placement(op) else ""


def test_placements_are_jax_own() -> None:
    """The same attributes as those of the policy that JAX has for it, results included."""
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=["h"], offload_src="device", offload_dst="pinned_host"
    )

    @functools.partial(jax.checkpoint, policy=policy)
    def block(x: jax.Array) -> jax.Array:
        return jnp.sin(checkpoint_name(jnp.sin(x), "h"))

    traced = jax.jit(jax.grad(lambda x: block(x).sum())).trace(jnp.ones(4))
    module = Module(traced.lower(lowering_platforms=("cuda",)).compiler_ir("stablehlo"))
    theirs = [op for op in walk_named(module.operation, "stablehlo.custom_call") if is_placement(op)]
    assert [memory_of(op) for op in theirs] == [HOST, DEVICE]
    for op in theirs:
        with ir.InsertionPoint.after(op), op.location:
            ours = placed(op.operands[0], memory_of(op)).owner
        assert attributes(ours) == attributes(op)
    assert "mhlo.memory_kind" in str(functions(module.operation)["main"].attributes["res_attrs"])


def attributes(op: ir.Operation) -> dict[str, str]:
    named = [op.attributes[i] for i in range(len(op.attributes))]
    return {entry.name: str(entry.attr) for entry in named}


# ---- What is a residual ----


@pytest.mark.once
def test_residuals() -> None:
    """Of a layer x, from which the norm follows but for its statistics, and h in bfloat16, from which the cast, the
    tanh and the gelu do. The first x is an argument; the last one the backward needs, too.
    """
    module = traced(unrolled).run("prepare")
    large = large_residuals(module)
    shapes = [str(residual.value.type) for residual in large]
    assert shapes == [f"tensor<{ROWS}x{2 * WIDTH}xbf16>", f"tensor<{ROWS}x{WIDTH}xf32>"] * LAYERS
    assert all(residual.made < residual.last < residual.needed for residual in large[:-1])


def large_residuals(module: Module) -> list[Residual]:
    block = functions(module.operation)["main"].regions[0].blocks[0]
    found = residuals(Order(block), forward_length(Flow(block)), 512)
    return [residual for residual in found if residual.bytes >= 512]


@pytest.mark.once
def test_nothing_else_keeps_it() -> None:
    """Once its residuals are on the host the backward uses neither them nor what follows from them."""
    module = traced(unrolled).run(f"prepare,{HIDES}", target=H100)
    assert len(sent(module)) == 3
    assert [residual.op.name for residual in large_residuals(module)] == ["stablehlo.add"]  # used again at once


@pytest.mark.once
def test_sink_cheap() -> None:
    module = Module.parse("""func.func public @main(%x: tensor<4xf32>) -> (tensor<f32>, tensor<4xf32>) {
      %zero = stablehlo.constant dense<0.0> : tensor<f32>
      %first = stablehlo.negate %x : tensor<4xf32>
      %early = stablehlo.negate %x : tensor<4xf32>
      %later = stablehlo.sine %early : tensor<4xf32>
      %fixed = stablehlo.cosine %x : tensor<4xf32>
      %sum = stablehlo.reduce(%fixed init: %zero) applies stablehlo.add across dimensions = [0] : (tensor<4xf32>, tensor<f32>) -> tensor<f32>
      return %sum, %later : tensor<f32>, tensor<4xf32>
    }""")  # noqa: E501
    order = Order(functions(module.operation)["main"].regions[0].blocks[0])
    names = [op.name.split(".")[1] for op in sink_cheap(order, 2, {order.ops[4]}).ops]
    assert names == ["constant", "negate", "cosine", "reduce", "negate", "sine", "return"]


# ---- When it travels ----


@pytest.mark.once
def test_link() -> None:
    early, late = Transfer(1.0, ready=0.0, needed=10.0), Transfer(1.0, ready=0.5, needed=9.5)
    assert arrivals([late, early]) == [2.0, 1.0]
    assert departures([early, late]) == [9.0, 8.0]
    assert hides([early, late])
    tight = Transfer(1.0, ready=0.0, needed=2.0)
    assert hides([tight])
    assert not hides([tight, tight])
    assert not hides([Transfer(1.0, ready=0.0, needed=1.5)])


@pytest.mark.once
def test_ways_wait_for_the_program() -> None:
    """Each residual leaves before a barrier of the forward, and comes back behind one of the backward."""
    module = traced(unrolled).run(f"prepare,{HIDES}", target=H100)
    order = Order(functions(module.operation)["main"].regions[0].blocks[0])
    barriers = [op for op in order.ops if op.name == "stablehlo.optimization_barrier"]
    back = [op for op in order.ops if memory(op) == DEVICE]
    assert len(back) == len(sent(module)) == 3
    for op in back:
        tie = op.operands[0].owner.operation
        assert tie in barriers
        cotangent = tie.operands[len(tie.operands) - 1]
        assert order.made(cotangent) > max(order.of(away) for away in order.ops if memory(away) == HOST)
    first = next(op for op in order.ops if memory(op) == HOST)
    (waiting,) = [use.owner.operation for use in first.results[0].uses]
    assert waiting.name == "stablehlo.optimization_barrier"
    assert order.of(waiting) < order.of(back[0])


# ---- The check of the program itself ----


@pytest.mark.once
@pytest.mark.parametrize(
    ("verdict", "kinds", "changed"),
    [
        ("", ["passed"] * 3, True),
        ("result 1 differs", ["failure"], False),
        (selfcheck.CannotCheck(ValueError("a callback")), ["missed"], False),
        (selfcheck.CannotCheck(ValueError("RESOURCE_EXHAUSTED: no memory")), ["analysis", *["passed"] * 3], True),
    ],
)
def test_gate(monkeypatch: pytest.MonkeyPatch, verdict: Any, kinds: list[str], changed: bool) -> None:
    def difference(original: Module, rewritten: Module, target: Target) -> str:
        assert "pinned_host" in rewritten.text()
        assert "pinned_host" not in original.text()
        if isinstance(verdict, Exception):
            raise verdict
        return str(verdict)

    monkeypatch.setattr(selfcheck, "difference", difference)
    module = traced(unrolled).run("prepare").run(f"{HIDES[:-1]} force=true}}", target="cpu")
    assert [remark.kind for remark in module.remarks] == kinds
    assert ("pinned_host" in module.text()) == changed


@pytest.mark.once
def test_difference() -> None:
    """It sees rows that come back in reverse order, as once from XLA, and an update of parameters that is wrong."""

    def program(reverse: bool) -> Module:
        def step(w: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            gradient = x.T @ jnp.tanh(x @ w)
            return jnp.sum(w * w), w - 1e-4 * (gradient[::-1] if reverse else gradient)

        return zenith.trace(step, jnp.ones((8, 8)), jnp.ones((16, 8)))

    cpu = Target.parse("cpu")
    assert selfcheck.difference(program(False), program(False), cpu) == ""
    assert selfcheck.difference(program(False), program(True), cpu).startswith("result 1 differs")


@pytest.mark.once
def test_the_original_does_not_run() -> None:
    module = zenith.trace(lambda x: jax.pure_callback(np.sin, x, x), jnp.ones(4))
    with pytest.raises(selfcheck.CannotCheck, match="the original program does not run here: the module calls back"):
        selfcheck.difference(module, module, Target.parse("cpu"))


# ---- Options ----


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("values=[", "no regular expression"),
        ("budget=110%", "a percentage from 0% to 100%"),
        ("host-bandwidth=fast", "a number of bytes such as 2GiB"),
        ("host-bandwidth=0", "more than 0"),
    ],
)
def test_wrong_options(options: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Pipeline.parse(f"annotate-offload{{{options}}}")


@pytest.mark.once
def test_nothing_to_do() -> None:
    """A module without a main is left alone."""
    module = Module.parse("module { func.func private @f(tensor<4xf32>) -> tensor<4xf32> }")
    AnnotateOffload().run(module, ctx := PassContext(Target.parse(H100)))
    assert ctx.remarks == []
