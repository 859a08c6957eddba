"""The memory of modules that nobody compiled: rule by rule, and beside what XLA makes of whole programs."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import zenith_mlir as zenith
from zenith_mlir.errors import ZenithError
from zenith_mlir.memory.estimate import estimate
from zenith_mlir.memory.timeline import Timeline

KIB = 1024


def timeline(body: str, argument: str = "tensor<256xf32>") -> Timeline:
    """Of a function from %x to what `body` returns; a value of type $ takes a KiB."""
    text = f"func.func public @main(%x: {argument}) -> $ {{\n{body}\n}}"
    return estimate(zenith.load(text.replace("$", "tensor<256xf32>")))


def call(result: str, operands: str) -> str:
    """An operation that reads and writes memory."""
    types = ", ".join(["$"] * len(operands.split(",")))
    return f"%{result} = stablehlo.custom_call @opaque({operands}) : ({types}) -> $\n"


@pytest.mark.once
def test_values_live_to_their_last_use() -> None:
    found = timeline(call("a", "%x") + call("b", "%a") + call("c", "%a, %b") + call("d", "%c") + "return %d : $")
    # a; a, b; a, b, c; c with the result d, which is the caller's.
    assert found.live.tolist() == [KIB, 2 * KIB, 3 * KIB, KIB]
    assert [moment.name for moment in found.moments] == ["custom_call"] * 4


@pytest.mark.once
def test_views_and_fused_values_take_nothing_and_hold_their_sources() -> None:
    found = timeline(
        call("a", "%x")
        + "%v = stablehlo.reshape %a : ($) -> tensor<16x16xf32>\n"
        + "%e = stablehlo.add %v, %v : tensor<16x16xf32>\n"
        + call("b", "%x")
        + "%z = stablehlo.constant dense<0.0> : tensor<f32>\n"
        + "%s = stablehlo.reduce(%e init: %z) applies stablehlo.add across dimensions = [1]"
        + " : (tensor<16x16xf32>, tensor<f32>) -> tensor<16xf32>\n"
        + "%c = stablehlo.custom_call @opaque(%s, %b) : (tensor<16xf32>, $) -> $\n"
        + "return %c : $"
    )
    assert found.live.tolist() == [KIB, 2 * KIB, 2 * KIB + 64, KIB + 64]


@pytest.mark.once
def test_what_is_dear_and_used_twice_is_stored() -> None:
    twice = "%p = stablehlo.negate %e : $\n%q = stablehlo.abs %e : $\n%r = stablehlo.add %p, %q : $\n"
    end = call("d", "%r") + "return %d : $"
    assert timeline("%e = stablehlo.exponential %x : $\n" + twice + end).peak == KIB
    assert len(timeline("%e = stablehlo.exponential %x : $\n" + twice + end).values) == 2
    assert len(timeline("%e = stablehlo.sign %x : $\n" + twice + end).values) == 1
    # Reading %x and %a twice is more than reading %e twice.
    assert len(timeline(call("a", "%x") + "%e = stablehlo.add %x, %a : $\n" + twice + end).values) == 3


@pytest.mark.once
def test_elementwise_results_take_the_place_of_what_dies() -> None:
    found = timeline(call("a", "%x") + "%e = stablehlo.tanh %a : $\n" + call("b", "%e") + "return %b : $")
    assert found.live.tolist() == [KIB, KIB, KIB]
    kept = timeline(call("a", "%x") + "%e = stablehlo.tanh %a : $\n" + call("b", "%e, %a") + "return %b : $")
    assert kept.live.tolist() == [KIB, 2 * KIB, 2 * KIB]


LOOP = """
%z = stablehlo.constant dense<0> : tensor<i32>
%a = stablehlo.custom_call @opaque(%x) : ($) -> $
%k = stablehlo.custom_call @opaque(%x) : ($) -> $
%r:3 = stablehlo.while(%i = %z, %s = %a, %c = %k) : tensor<i32>, $, $
 cond {
  %n = stablehlo.constant dense<9> : tensor<i32>
  %p = stablehlo.compare LT, %i, %n : (tensor<i32>, tensor<i32>) -> tensor<i1>
  stablehlo.return %p : tensor<i1>
 } do {
  %one = stablehlo.constant dense<1> : tensor<i32>
  %j = stablehlo.add %i, %one : tensor<i32>
  %u = stablehlo.custom_call @opaque(%s, %c) : ($, $) -> $
  %v = stablehlo.custom_call @opaque(%u) : ($) -> $
  %w = stablehlo.custom_call @opaque(%v) : ($) -> $
  stablehlo.return %j, %w, %c : tensor<i32>, $, $
 }
%d = stablehlo.custom_call @opaque(%r#1) : ($) -> $
return %d : $
"""


@pytest.mark.once
def test_a_loop_keeps_its_state_in_one_place_and_what_it_reads_until_its_end() -> None:
    found = timeline(LOOP)
    large = [round(live / KIB) for live in found.live.tolist()]
    # a; k; the loop; its counter; u beside the state and k; u, v; v, w (w in the state's place); then d.
    assert large == [1, 2, 2, 2, 3, 4, 3, 1]


@pytest.mark.once
def test_what_a_loop_reads_from_outside_lives_until_it_ends() -> None:
    # Now the body reads %k itself, early, and hands nothing on.
    captured = LOOP.replace("@opaque(%s, %c)", "@opaque(%s, %k)").replace("%c = %k) : tensor<i32>, $, $", "%c = %z)")
    captured = captured.replace("%c = %z)", "%c = %z) : tensor<i32>, $, tensor<i32>")
    captured = captured.replace(
        "stablehlo.return %j, %w, %c : tensor<i32>, $, $", "stablehlo.return %j, %w, %c : tensor<i32>, $, tensor<i32>"
    )
    assert timeline(captured).peak == timeline(LOOP).peak
    branch = (
        call("a", "%x")
        + call("k", "%x")
        + """
        %p = stablehlo.constant dense<true> : tensor<i1>
        %r = "stablehlo.if"(%p) ({
          %u = stablehlo.custom_call @opaque(%k) : ($) -> $
          %v = stablehlo.custom_call @opaque(%u) : ($) -> $
          stablehlo.return %v : $
        }, {
          stablehlo.return %a : $
        }) : (tensor<i1>) -> $
    """
    )
    found = timeline(branch + call("d", "%r") + "return %d : $")
    # The result, k and u are there when v is computed, and a, which the other branch returns.
    assert found.live.tolist()[4] == 5 * KIB


@pytest.mark.once
def test_results_and_donated_arguments_are_the_callers() -> None:
    x = jax.ShapeDtypeStruct((256,), jnp.float32)
    report = zenith.memory.report(jax.jit(lambda x: x * 2, donate_argnums=0).lower(x))
    assert (report.arguments, report.outputs, report.aliased, report.temporaries) == (KIB, KIB, KIB, 0)


@pytest.mark.once
def test_values_sent_to_the_host_are_counted_there() -> None:
    place = "%{0} = stablehlo.custom_call @annotate_device_placement(%{1}) {{has_side_effect = true, "
    place += 'mhlo.frontend_attributes = {{_xla_buffer_placement = "{2}"}}}} : ($) -> $\n'
    body = call("a", "%x") + place.format("h", "a", "pinned_host") + call("b", "%x") + call("c", "%b")
    found = timeline(body + place.format("e", "h", "device") + call("d", "%e, %c") + "return %d : $")
    # The host has a while b and c are computed.
    assert found.live.tolist() == [KIB, KIB, KIB, 2 * KIB, 2 * KIB, 2 * KIB]
    assert found.host_peak == KIB


@pytest.mark.once
def test_calls_are_followed() -> None:
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    inner = jax.jit(lambda x: x @ x @ x)
    assert estimate(zenith.trace(lambda x: inner(x) @ x, x)).peak == 2 * 64 * 64 * 4


@pytest.mark.once
def test_what_cannot_be_estimated() -> None:
    with pytest.raises(ZenithError, match="known only when called"):
        estimate(zenith.load("func.func public @main(%x: tensor<?xf32>) -> tensor<?xf32> {\n"
                             "%a = stablehlo.custom_call @opaque(%x) : (tensor<?xf32>) -> tensor<?xf32>\n"
                             "return %a : tensor<?xf32>\n}"))  # fmt: skip
    with pytest.raises(ZenithError, match="@main"):
        estimate(zenith.load("func.func @f(%x: tensor<f32>) -> tensor<f32> {\nreturn %x : tensor<f32>\n}"))


def attention(ws: Any, x: Any) -> Any:
    q, k, v = (x @ w for w in ws[:3])
    hidden = jax.nn.softmax(q @ k.T / 8) @ v @ ws[3]
    return ((x + jax.nn.gelu(hidden @ ws[4]) @ ws[5]) ** 2).mean()


def test_estimates_are_near_what_xla_takes() -> None:
    shapes = [(64, 64)] * 4 + [(64, 512), (512, 64)]
    ws = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    lowered = jax.jit(jax.grad(attention)).lower(ws, jax.ShapeDtypeStruct((256, 64), jnp.float32))
    estimated = zenith.memory.report(lowered).temporaries
    assert estimated == pytest.approx(zenith.memory.report(lowered.compile()).temporaries, rel=0.2)
