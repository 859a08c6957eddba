"""Calls, branches and loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import shape, users
from zenith_mlir.ir.loops import Loop
from zenith_mlir.ir.stacks import Row, stored
from zenith_mlir.ir.symbols import callee
from zenith_mlir.onnx.arrange import dense
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Lowering, Walk, onnx_type
from zenith_mlir.onnx.view import View

__all__ = ["CONTROL"]

_D = oir.DataType


def _call(walk: Walk, op: ir.Operation) -> Sequence[View]:
    block = walk.functions[callee(op)].regions[0].blocks[0]
    return walk.block(block, [walk.view(value) for value in op.operands])


def _if(walk: Walk, op: ir.Operation) -> Sequence[View]:
    yes, no = (region.blocks[0] for region in op.regions)
    predicate = walk.builder.reshape(walk.dense(op.operands[0]), ())
    return _branch(walk, op, predicate, lambda: walk.block(yes, []), lambda: walk.block(no, []))


def _case(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """An index that there is no branch for takes the last (StableHLO, case)."""
    blocks = [region.blocks[0] for region in op.regions]
    index = walk.builder.reshape(walk.dense(op.operands[0]), ())

    def choose(k: int) -> Sequence[View]:
        if k == len(blocks) - 1:
            return walk.block(blocks[k], [])
        this = walk.builder.op("Equal", index, walk.builder.scalar(k, _D.INT32), shape=(), dtype=_D.BOOL)
        return _branch(walk, op, this, lambda: walk.block(blocks[k], []), lambda: choose(k + 1))

    return choose(0)


def _branch(
    walk: Walk,
    op: ir.Operation,
    predicate: oir.Value,
    yes: Callable[[], Sequence[View]],
    no: Callable[[], Sequence[View]],
) -> Sequence[View]:
    builder = walk.builder
    graphs = [_graph(builder, name, branch) for name, branch in (("then", yes), ("else", no))]
    results = [(onnx_type(value), shape(value)) for value in op.results]
    values = builder.nodes("If", [predicate], results, then_branch=graphs[0], else_branch=graphs[1])
    return [View.of(value, dims) for value, (_, dims) in zip(values, results, strict=True)]


def _graph(builder: Builder, name: str, branch: Callable[[], Sequence[View]]) -> oir.Graph:
    with builder.subgraph(name, []) as graph:
        builder.set_outputs(graph, [dense(builder, view) for view in branch()])
    return graph


def _while(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """A Loop. What the body returns as it got it is read from outside; rows of which each iteration writes one are
    outputs that the Loop stacks.
    """
    loop = Loop(op)
    stacked = _rows_written(loop)
    inner = [i for i in range(len(op.operands)) if not loop.is_invariant(i) and i not in stacked]
    builder = walk.builder
    initial = [walk.dense(op.operands[i]) for i in inner]
    trips, start = _bounds(walk, loop)
    iteration = builder.value(_D.INT64, (), builder.new_name("iteration"))
    going = builder.value(_D.BOOL, (), builder.new_name("going"))
    carried = [builder.value(onnx_type(op.operands[i]), shape(op.operands[i])) for i in inner]
    with builder.subgraph("body", [iteration, going, *carried]) as graph:
        arguments = _arguments(walk, loop, dict(zip(inner, carried, strict=True)))
        returned = walk.block(loop.body, arguments)
        again = builder.scalar(True, _D.BOOL) if trips is not None else _continues(walk, loop, returned)
        rows = [walk.builder.reshape(walk.dense(row.value), shape(row.value)[1:]) for row in stacked.values()]
        builder.set_outputs(graph, [again, *(dense(builder, returned[i]) for i in inner), *rows])
    results = [(onnx_type(op.results[i]), shape(op.results[i])) for i in [*inner, *stacked]]
    values = builder.nodes("Loop", [trips, start, *initial], results, body=graph)
    views = {i: View.of(value, shape(op.results[i])) for i, value in zip(inner, values, strict=False)}
    for (i, row), value in zip(stacked.items(), values[len(inner) :], strict=True):
        views[i] = _stacked(walk, loop, row, value, shape(op.results[i]))
    return [views.get(i, walk.view(operand)) for i, operand in enumerate(op.operands)]


def _bounds(walk: Walk, loop: Loop) -> tuple[oir.Value | None, oir.Value]:
    """The trip count where it is known, and whether to begin: else the condition on the initial values.

    ONNX's reference takes a condition that is left out for false.
    """
    if loop.counter is not None:
        return walk.builder.constant(np.asarray(loop.counter[1], np.int64)), walk.builder.scalar(True, _D.BOOL)
    return None, _continues(walk, loop, [walk.view(operand) for operand in loop.operands])


def _continues(walk: Walk, loop: Loop, values: Sequence[View]) -> oir.Value:
    (condition,) = walk.block(loop.cond, values)
    return walk.builder.reshape(dense(walk.builder, condition), ())


def _arguments(walk: Walk, loop: Loop, carried: dict[int, oir.Value]) -> list[View]:
    outside = [walk.view(operand) for operand in loop.operands]
    return [View.of(carried[i], view.shape) if i in carried else view for i, view in enumerate(outside)]


def _rows_written(loop: Loop) -> dict[int, Row]:
    """Values of which each iteration writes one row and the body does nothing else with."""
    rows = {row.carry: row for row in stored(loop)}
    return {i: row for i, row in rows.items() if users(loop.returned[i]) == [loop.terminator]}


def _stacked(walk: Walk, loop: Loop, row: Row, value: oir.Value, dims: tuple[int, ...]) -> View:
    """What a Loop stacked of a row, the last on top where the program counts down."""
    assert loop.counter is not None
    counts_up = row.index == loop.body.arguments[loop.counter[0]]
    return View.of(value if counts_up else walk.builder.reverse(value, [0]), dims)


CONTROL: dict[str, Lowering] = {
    "func.call": _call,
    "stablehlo.if": _if,
    "stablehlo.case": _case,
    "stablehlo.while": _while,
}
