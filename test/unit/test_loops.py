"""Loops: which values count, which are invariant, and which nobody needs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zenith_mlir as zenith
from zenith_mlir.ir.facts import walk_named
from zenith_mlir.ir.loops import Loop, capture_invariants, drop_unused

Carry = tuple[jax.Array, jax.Array, jax.Array]

COUNTING = """
func.func @main(%x: tensor<4xf32>, %n: tensor<i32>) -> tensor<4xf32> {{
  %start = stablehlo.constant dense<{start}> : tensor<i32>
  %0:2 = stablehlo.while(%i = %start, %y = %x) : tensor<i32>, tensor<4xf32>
  cond {{
    %bound = stablehlo.constant dense<3> : tensor<i32>
    %go = stablehlo.compare {compare} : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  }} do {{
    %one = stablehlo.constant dense<{step}> : tensor<i32>
    %next = stablehlo.{add} %i, %one : tensor<i32>
    %z = stablehlo.add %y, %y : tensor<4xf32>
    stablehlo.return %next, %z : tensor<i32>, tensor<4xf32>
  }}
  return %0#1 : tensor<4xf32>
}}
"""


def loops(module: zenith.Module) -> list[Loop]:
    return [Loop(op) for op in walk_named(module.operation, "stablehlo.while")]


def counter(**changes: object) -> tuple[int, int] | None:
    facts = {"start": 0, "compare": "LT, %i, %bound", "step": 1, "add": "add"} | changes
    module = zenith.Module.parse(COUNTING.format(**facts))
    (loop,) = loops(module)
    return loop.counter


def test_a_counter_from_zero_by_one() -> None:
    assert counter() == (0, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"start": 1},
        {"step": 2},
        {"step": -1},
        {"add": "subtract"},
        {"compare": "LE, %i, %bound"},
        {"compare": "GE, %i, %bound"},
        {"compare": "NE, %i, %bound"},
        {"compare": "LT, %bound, %i"},
        {"compare": "LT, %i, %n"},
    ],
    ids=str,
)
def test_other_loops_have_no_counter(changes: dict[str, object]) -> None:
    assert counter(**changes) is None


# w is invariant, a feeds itself, b feeds the result, u is used by the condition alone.
CARRIED = """
func.func @main(%x: tensor<4xf32>, %w: tensor<4xf32>) -> tensor<4xf32> {{
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %0:5 = stablehlo.while(%i = %zero, %v = %w, %a = %x, %b = %x, %u = %zero)
    : tensor<i32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<i32>
  cond {{
    %bound = stablehlo.constant dense<3> : tensor<i32>
    %go = stablehlo.compare LT, %u, %bound : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  }} do {{
    %one = stablehlo.constant dense<1> : tensor<i32>
    %j = stablehlo.add %i, %one : tensor<i32>
    %t = stablehlo.add %u, %one : tensor<i32>
    %c = stablehlo.multiply %a, %a : tensor<4xf32>
    %d = stablehlo.add %b, %v : tensor<4xf32>
    {effect}
    stablehlo.return %j, %v, %c, %d, %t
      : tensor<i32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<i32>
  }}
  return %0#3 : tensor<4xf32>
}}
"""
CALL = "stablehlo.custom_call @tell({0}) {{has_side_effect = true}} : ({1}) -> ()"
EFFECTS = {
    "": 3,
    CALL.format("%c", "tensor<4xf32>"): 4,
    '"stablehlo.if"(%p) ({ ' + CALL.format("%c", "tensor<4xf32>") + ' "stablehlo.return"() : () -> () }, '
    '{ "stablehlo.return"() : () -> () }) : (tensor<i1>) -> ()': 4,
}


@pytest.mark.parametrize(("effect", "kept"), EFFECTS.items(), ids=["none", "call", "call in a branch"])
def test_values_that_feed_only_themselves_go(effect: str, kept: int) -> None:
    needed = effect and "%p = stablehlo.compare EQ, %t, %one : (tensor<i32>, tensor<i32>) -> tensor<i1>\n    "
    module = zenith.Module.parse(CARRIED.format(effect=needed + effect))
    with module.context:
        (loop,) = loops(module)
        smaller = drop_unused(loop)
        assert len(smaller.operands) == kept
        assert module.operation.verify()
        assert ("multiply" in module.text()) == (kept == 4)
        assert module.text().count("@tell") == (kept == 4)
        assert drop_unused(smaller) == smaller


def test_dropping_keeps_what_is_computed() -> None:
    module = zenith.Module.parse(CARRIED.format(effect=""))
    x, w = np.arange(4, dtype=np.float32), np.full(4, 0.5, np.float32)
    with module.context:
        (loop,) = loops(module)
        drop_unused(loop)
    (result,) = module.compile("cpu")(x, w)
    np.testing.assert_array_equal(result, x + 3 * w)


def test_invariants_are_captured_and_others_are_not() -> None:
    module = zenith.Module.parse(CARRIED.format(effect=""))
    with module.context:
        (loop,) = loops(module)
        assert [loop.is_invariant(i) for i in range(5)] == [False, True, False, False, False]
        capture_invariants(loop, range(5))
        assert module.operation.verify()
        smaller = drop_unused(loop)
        assert len(smaller.operands) == 2
    x, w = np.arange(4, dtype=np.float32), np.full(4, 0.5, np.float32)
    (result,) = module.compile("cpu")(x, w)
    np.testing.assert_array_equal(result, x + 3 * w)


def test_a_value_used_in_a_loop_below_stays() -> None:
    def nested(x: jax.Array, w: jax.Array) -> jax.Array:
        def outer(carry: Carry, _: None) -> tuple[Carry, None]:
            y, scale, unused = carry
            inner = jax.lax.fori_loop(0, 2, lambda i, z: z * scale, y)
            return (inner, scale + 1, unused * 2), None

        return jax.lax.scan(outer, (x, w, x), None, length=3)[0][0]

    x, w = np.arange(4, dtype=np.float32), np.full(4, 0.5, np.float32)
    module = zenith.trace(nested, x, w).run("inline-calls", target="cpu")
    (before,) = module.compile("cpu")(x, w)
    with module.context:
        outer, *_ = loops(module)
        count = len(outer.operands)
        assert len(drop_unused(outer).operands) == count - 1
        assert module.operation.verify()
    np.testing.assert_array_equal(module.compile("cpu")(x, w)[0], before)


def test_a_callback_in_a_branch_of_a_scan_survives_preparation() -> None:
    def told(x: jax.Array) -> jax.Array:
        def body(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
            y, i = carry
            jax.lax.cond(i % 2 == 0, lambda a: jax.debug.callback(lambda _: None, a), lambda a: None, i)
            return (y * 2 + jnp.ones(4), i + 2), None

        return jax.lax.scan(body, (x, jnp.int32(0)), None, length=3)[0][0]

    module = zenith.trace(told, np.ones(4, np.float32)).run("prepare", target="cpu")
    assert module.operation.verify()
    assert "callback" in module.text()
