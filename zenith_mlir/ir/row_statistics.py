"""The maximum of each row and the sum of the exponentials relative to it, as operations of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxlib.mlir import ir

# Private to jaxlib; see inline.py.
from jaxlib.mlir._mlir_libs._jax_mlir_ext import inlined_func_call

from zenith_mlir.ir.cones import cone
from zenith_mlir.ir.facts import element_type, shape

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

_TEXT_WITH_SINK = """
func.func private @statistics(%x: {logits}, %s: {sink}) -> ({rows}, {rows}) {{
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %least = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %split = stablehlo.reshape %x : ({logits}) -> {split}
  %wide = stablehlo.convert %split : ({split}) -> {wide}
  %turned = stablehlo.transpose %wide, dims = {permutation} : ({wide}) -> {turned}
  %s_split = stablehlo.reshape %s : ({sink}) -> {sink_split}
  %s_wide = stablehlo.convert %s_split : ({sink_split}) -> {sink_wide}
  %s_turned = stablehlo.transpose %s_wide, dims = {sink_permutation} : ({sink_wide}) -> {sink_turned}
  %s_rows = stablehlo.broadcast_in_dim %s_turned, dims = {sink_dims} : ({sink_turned}) -> {rows}
  %own = stablehlo.reduce(%turned init: %least) applies stablehlo.maximum across dimensions = [{last}]
    : ({turned}, tensor<f32>) -> {rows}
  %max = stablehlo.maximum %own, %s_rows : {rows}
  %spread = stablehlo.broadcast_in_dim %max, dims = {leading} : ({rows}) -> {turned}
  %shifted = stablehlo.subtract %turned, %spread : {turned}
  %weights = stablehlo.exponential %shifted : {turned}
  %total = stablehlo.reduce(%weights init: %zero) applies stablehlo.add across dimensions = [{last}]
    : ({turned}, tensor<f32>) -> {rows}
  %s_shifted = stablehlo.subtract %s_rows, %max : {rows}
  %s_weight = stablehlo.exponential %s_shifted : {rows}
  %sum = stablehlo.add %total, %s_weight : {rows}
  return %max, %sum : {rows}, {rows}
}}
"""


@dataclass(frozen=True)
class RowView:
    """How to bring a value to the rows of logits: the shape that it is split to, the order of those dimensions, and
    which dimensions of a row they are.
    """

    split: list[int]
    permutation: list[int]
    dims: list[int]


def emit_row_statistics(
    logits: ir.Value,
    split: Sequence[int],
    permutation: Sequence[int],
    anchor: ir.Operation,
    sink: tuple[ir.Value, RowView] | None = None,
) -> tuple[list[ir.Operation], list[ir.Value]]:
    """Put operations before `anchor` that compute m = max x and Σ exp(x - m) in float32.

    Args:
      logits: x.
      split: the shape that x is brought to first.
      permutation: of its dimensions, the one that is reduced last.
      sink: one more logit for each row, and how its dimensions are those of the rows.

    Returns: the operations, and the maximum and the sum; their shape is the permuted one without its last dimension.
    """
    turned = [split[i] for i in permutation]
    rows = turned[:-1]
    last = len(turned) - 1
    text = (_TEXT if sink is None else _TEXT_WITH_SINK).format(
        logits=_tensor(shape(logits), str(element_type(logits))),
        split=_tensor(split, str(element_type(logits))),
        wide=_tensor(split, "f32"),
        turned=_tensor(turned, "f32"),
        rows=_tensor(rows, "f32"),
        permutation=list(permutation),
        leading=list(range(last)),
        last=last,
        **({} if sink is None else _sink_types(*sink)),
    )
    operands = [logits] if sink is None else [logits, sink[0]]
    with anchor.location:
        parsed = ir.Module.parse(text)
        (function,) = parsed.body.operations
        with ir.InsertionPoint(anchor):
            results = inlined_func_call(function.operation, operands, anchor.location)
    own = cone(results, operands, lambda _, op: op is not None and op.name != "stablehlo.constant")
    return own, list(results)


def _sink_types(sink: ir.Value, view: RowView) -> dict[str, object]:
    dtype = str(element_type(sink))
    turned = [view.split[i] for i in view.permutation]
    return {
        "sink": _tensor(shape(sink), dtype),
        "sink_split": _tensor(view.split, dtype),
        "sink_wide": _tensor(view.split, "f32"),
        "sink_turned": _tensor(turned, "f32"),
        "sink_permutation": view.permutation,
        "sink_dims": view.dims,
    }


def _tensor(dims: Sequence[int], dtype: str) -> str:
    return f"tensor<{'x'.join([*map(str, dims), dtype])}>"
