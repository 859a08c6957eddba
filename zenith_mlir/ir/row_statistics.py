"""The maximum of each row and the sum of the exponentials relative to it, as operations of a program."""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir

# Private to jaxlib; see inline.py.
from jaxlib.mlir._mlir_libs._jax_mlir_ext import inlined_func_call

from zenith_mlir.ir.facts import element_type, producer, shape

_TEXT = """
func.func private @statistics(%x: {logits}) -> ({rows}, {rows}) {{
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %least = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %split = stablehlo.reshape %x : ({logits}) -> {split}
  %wide = stablehlo.convert %split : ({split}) -> {wide}
  %turned = stablehlo.transpose %wide, dims = {permutation} : ({wide}) -> {turned}
  %max = stablehlo.reduce(%turned init: %least) applies stablehlo.maximum across dimensions = [{last}]
    : ({turned}, tensor<f32>) -> {rows}
  %spread = stablehlo.broadcast_in_dim %max, dims = {leading} : ({rows}) -> {turned}
  %shifted = stablehlo.subtract %turned, %spread : {turned}
  %weights = stablehlo.exponential %shifted : {turned}
  %sum = stablehlo.reduce(%weights init: %zero) applies stablehlo.add across dimensions = [{last}]
    : ({turned}, tensor<f32>) -> {rows}
  return %max, %sum : {rows}, {rows}
}}
"""


def emit_row_statistics(
    logits: ir.Value, split: Sequence[int], permutation: Sequence[int], anchor: ir.Operation
) -> tuple[list[ir.Operation], list[ir.Value]]:
    """Put operations before `anchor` that compute m = max x and Σ exp(x - m) in float32.

    Args:
      logits: x.
      split: the shape that x is brought to first.
      permutation: of its dimensions, the one that is reduced last.

    Returns: the operations, and the maximum and the sum; their shape is the permuted one without its last dimension.
    """
    turned = [split[i] for i in permutation]
    last = len(turned) - 1
    text = _TEXT.format(
        logits=_tensor(shape(logits), str(element_type(logits))),
        split=_tensor(split, str(element_type(logits))),
        wide=_tensor(split, "f32"),
        turned=_tensor(turned, "f32"),
        rows=_tensor(turned[:-1], "f32"),
        permutation=list(permutation),
        leading=list(range(last)),
        last=last,
    )
    with anchor.location:
        parsed = ir.Module.parse(text)
        (function,) = parsed.body.operations
        with ir.InsertionPoint(anchor):
            results = inlined_func_call(function.operation, [logits], anchor.location)
    return _above(results, logits), list(results)


def _tensor(dims: Sequence[int], dtype: str) -> str:
    return f"tensor<{'x'.join([*map(str, dims), dtype])}>"


def _above(values: Sequence[ir.Value], stop: ir.Value) -> list[ir.Operation]:
    """What computes `values` from `stop` and constants, producers first."""
    done: dict[ir.Operation, None] = {}

    def visit(value: ir.Value) -> None:
        if value != stop:
            op = producer(value)
            if op.name == "stablehlo.constant":
                return
            for operand in op.operands:
                visit(operand)
            done.setdefault(op)

    for value in values:
        visit(value)
    return list(done)
