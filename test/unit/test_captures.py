"""Constants leave loops and pass barriers; what changes or is no constant stays."""

from __future__ import annotations

import pytest

import zenith_mlir as zenith
from zenith_mlir.canonical.captures import capture_constants
from zenith_mlir.ir.facts import walk_named

LOOP = """
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {{
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %c = {value}
  %0:3 = stablehlo.while(%i = %zero, %m = %c, %y = %x) : tensor<i32>, tensor<4xf32>, tensor<4xf32>
  cond {{
    %bound = stablehlo.constant dense<3> : tensor<i32>
    %go = stablehlo.compare LT, %i, %bound : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  }} do {{
    %one = stablehlo.constant dense<1> : tensor<i32>
    %j = stablehlo.add %i, %one : tensor<i32>
    %z = stablehlo.add %y, %m : tensor<4xf32>
    stablehlo.return %j, {returned}, %z : tensor<i32>, tensor<4xf32>, tensor<4xf32>
  }}
  return %0#2 : tensor<4xf32>
}}
"""
CONSTANT = "stablehlo.iota dim = 0 : tensor<4xf32>"


def captured(text: str) -> tuple[zenith.Module, int]:
    module = zenith.Module.parse(text)
    with module.context:
        count = capture_constants(module.operation)
        assert module.operation.verify()
    return module, count


@pytest.mark.parametrize(
    ("value", "returned", "count"),
    [(CONSTANT, "%m", 1), (CONSTANT, "%z", 0), ("stablehlo.negate %x : tensor<4xf32>", "%m", 0)],
    ids=["a constant", "what changes", "no constant"],
)
def test_loops(value: str, returned: str, count: int) -> None:
    module, found = captured(LOOP.format(value=value, returned=returned))
    assert found == count
    (loop,) = walk_named(module.operation, "stablehlo.while")
    assert len(loop.operands) == 3 - count
    assert captured(module.text())[1] == 0


def test_a_barrier_holds_back_what_is_no_constant() -> None:
    module, count = captured("""
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %c = stablehlo.constant dense<2.0> : tensor<4xf32>
  %0:2 = stablehlo.optimization_barrier %x, %c : tensor<4xf32>, tensor<4xf32>
  %1 = stablehlo.multiply %0#0, %0#1 : tensor<4xf32>
  return %1 : tensor<4xf32>
}
""")
    assert count == 1
    (product,) = walk_named(module.operation, "stablehlo.multiply")
    (barrier,) = walk_named(module.operation, "stablehlo.optimization_barrier")
    (constant,) = walk_named(module.operation, "stablehlo.constant")
    assert list(product.operands) == [barrier.results[0], constant.results[0]]


def test_a_loop_in_a_loop() -> None:
    """The outer one carries the constant for the inner one alone."""
    module, count = captured("""
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %one = stablehlo.constant dense<1> : tensor<i32>
  %three = stablehlo.constant dense<3> : tensor<i32>
  %c = stablehlo.iota dim = 0 : tensor<4xf32>
  %0:3 = stablehlo.while(%i = %zero, %m = %c, %y = %x) : tensor<i32>, tensor<4xf32>, tensor<4xf32>
  cond {
    %go = stablehlo.compare LT, %i, %three : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  } do {
    %1:3 = stablehlo.while(%k = %zero, %n = %m, %z = %y) : tensor<i32>, tensor<4xf32>, tensor<4xf32>
    cond {
      %go = stablehlo.compare LT, %k, %three : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %go : tensor<i1>
    } do {
      %l = stablehlo.add %k, %one : tensor<i32>
      %w = stablehlo.add %z, %n : tensor<4xf32>
      stablehlo.return %l, %n, %w : tensor<i32>, tensor<4xf32>, tensor<4xf32>
    }
    %j = stablehlo.add %i, %one : tensor<i32>
    stablehlo.return %j, %m, %1#2 : tensor<i32>, tensor<4xf32>, tensor<4xf32>
  }
  return %0#2 : tensor<4xf32>
}
""")
    assert count == 2
    assert [len(loop.operands) for loop in walk_named(module.operation, "stablehlo.while")] == [2, 2]
