"""What depends on constants and weights only is computed once, at export, by XLA or as XLA does.

BatchNorm folded into a convolution, position tables, masks, index arithmetic. What only moves or repeats elements is
left to the views of the converter, and nothing is computed that takes more room than what it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.canonical import build
from zenith_mlir.ir.facts import blocks, defining_op, element_type, has_static_shape, shape, users, walk
from zenith_mlir.ir.outline import clone_op
from zenith_mlir.ir.signature import main_function, numpy_dtype, update_signature
from zenith_mlir.module import Module
from zenith_mlir.onnx.numpy_values import can_compute, compute

__all__ = ["fold_constants"]

Array = np.ndarray[Any, Any]

# Results of at most so many bytes are computed whatever they are made of.
_SMALL = 1 << 16
_MOVES = frozenset(
    f"stablehlo.{name}"
    for name in ("broadcast_in_dim", "constant", "iota", "reshape", "transpose", "optimization_barrier")
)
_NEVER = frozenset(
    f"stablehlo.{name}" for name in ("custom_call", "rng", "rng_bit_generator", "partition_id", "replica_id")
)


def fold_constants(
    module: Module, weights: Mapping[int, Callable[[], Array]], is_symbolic: Callable[[int], bool] = lambda size: False
) -> dict[int, tuple[Array, frozenset[int]]]:
    """Replace, in `module`, what only constants and `weights` lead to by its value.

    Args:
      weights: the arrays of arguments of main that are known, by index.
      is_symbolic: whether a size stands for an expression; nothing of such a size is computed.

    Returns: the arrays of arguments that were added to main, by index, each with the weights that it was made of.
    """
    with module.context:
        main = main_function(module.ir)
        known = _Known.of(main, weights, is_symbolic)
        frontier = known.frontier()
        if not frontier:
            return {}
        values = _evaluate(module, frontier, known, weights)
        added = _replace(main, dict(zip(frontier, values, strict=True)))
        return {i: (array, known.leaves[value]) for i, (value, array) in added.items()}


@dataclass
class _Known:
    """Values of main that only constants and weights lead to, each with the arguments that do."""

    main: ir.Operation
    is_symbolic: Callable[[int], bool]
    leaves: dict[ir.Value, frozenset[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, main: ir.Operation, weights: Iterable[int], is_symbolic: Callable[[int], bool]) -> _Known:
        known = cls(main, is_symbolic)
        arguments = main.regions[0].blocks[0].arguments
        known.leaves.update({arguments[i]: frozenset((i,)) for i in weights})
        for view in main.regions[0].blocks[0].operations:
            known._visit(view.operation)
        return known

    def _visit(self, op: ir.Operation) -> None:
        read = _reads(op)
        if op.name in _NEVER or not op.results or not all(value in self.leaves for value in read):
            return
        if any(inner.name in _NEVER for inner in walk(op)):
            return
        leaves = frozenset[int]().union(*(self.leaves[value] for value in read))
        room = max(_SMALL, sum(_bytes(self.main.regions[0].blocks[0].arguments[i]) for i in leaves))
        for result in op.results:
            free = op.name in _MOVES
            if free or (self._is_static(result) and _bytes(result) <= room):
                self.leaves[result] = leaves

    def _is_static(self, value: ir.Value) -> bool:
        return has_static_shape(value) and not any(self.is_symbolic(size) for size in shape(value))

    def frontier(self) -> list[ir.Value]:
        """The values to compute: known, used by what is not, and neither given nor merely moved."""
        found: dict[ir.Value, None] = {}
        outside = [value for value in self.leaves if any(self._stays(user) for user in users(value))]
        while outside:
            value = outside.pop()
            op = defining_op(value)
            if op is None:
                continue
            if op.name not in _MOVES:
                found[value] = None
            else:
                outside += op.operands
        return list(found)

    def _stays(self, user: ir.Operation) -> bool:
        return not user.results or not all(result in self.leaves for result in user.results)


def _reads(op: ir.Operation) -> list[ir.Value]:
    """What `op` and the operations in it read of outside."""
    ops = [op, *walk(op)]
    inside: set[ir.Value] = {argument for each in ops for block in blocks(each) for argument in block.arguments}
    inside.update(result for inner in ops[1:] for result in inner.results)
    return [value for each in ops for value in each.operands if value not in inside]


def _bytes(value: ir.Value) -> int:
    return int(np.prod(shape(value), dtype=np.int64)) * numpy_dtype(element_type(value)).itemsize


def _evaluate(
    module: Module, frontier: list[ir.Value], known: _Known, weights: Mapping[int, Callable[[], Array]]
) -> list[Array]:
    needed = sorted(frozenset[int]().union(*(known.leaves[value] for value in frontier)))
    arrays = [weights[i]() for i in needed]
    ops = _cone(frontier, known.main)
    if can_compute(ops):
        arguments = known.main.regions[0].blocks[0].arguments
        values = compute(ops, {arguments[i]: array for i, array in zip(needed, arrays, strict=True)})
        return [values[value] for value in frontier]
    program = _program(module, frontier, known, needed)
    return [np.asarray(result) for result in program.compile("cpu")(*arrays)]


def _program(module: Module, frontier: list[ir.Value], known: _Known, needed: list[int]) -> Module:
    """A module that computes `frontier` from the arguments `needed`."""
    arguments = [known.main.regions[0].blocks[0].arguments[i] for i in needed]
    program = ir.Module.create(ir.Location.unknown(module.context))
    signature = ir.FunctionType.get([each.type for each in arguments], [each.type for each in frontier])
    with ir.InsertionPoint(program.body), known.main.location:
        # The meshes too, which constraints of shardings name.
        for view in module.ir.body.operations:
            if view.operation != known.main:
                view.operation.clone()
        main = ir.Operation.create(
            "func.func",
            regions=1,
            attributes={"sym_name": ir.StringAttr.get("main"), "function_type": ir.TypeAttr.get(signature)},
        )
        block = main.regions[0].blocks.append(*signature.inputs, arg_locs=[main.location] * len(arguments))
    mapping: dict[ir.Value, ir.Value] = dict(zip(arguments, block.arguments, strict=True))
    with ir.InsertionPoint(block), known.main.location:
        for op in _cone(frontier, known.main):
            _clone(op, mapping)
        ir.Operation.create("func.return", operands=[mapping[value] for value in frontier])
    return Module(program).run("inline-calls,expand-composites")


def _cone(frontier: list[ir.Value], main: ir.Operation) -> list[ir.Operation]:
    """What computes `frontier`, in program order."""
    needed: set[ir.Value] = set(frontier)
    ops = [view.operation for view in main.regions[0].blocks[0].operations]
    found = []
    for op in reversed(ops):
        if any(result in needed for result in op.results):
            needed.update(_reads(op))
            found.append(op)
    return found[::-1]


def _clone(op: ir.Operation, mapping: dict[ir.Value, ir.Value]) -> None:
    """Clone `op`; its regions may read what `mapping` holds."""
    clone = clone_op(op, mapping)
    for inner in walk(clone):
        for i, operand in enumerate(inner.operands):
            if operand in mapping:
                inner.operands[i] = mapping[operand]


def _replace(main: ir.Operation, values: Mapping[ir.Value, Array]) -> dict[int, tuple[ir.Value, Array]]:
    """Integers become constants, which lowerings look at; the rest becomes arguments."""
    block = main.regions[0].blocks[0]
    added: dict[int, tuple[ir.Value, Array]] = {}
    for value, array in values.items():
        if array.nbytes <= _SMALL and array.dtype.kind in "iu" and array.dtype.itemsize in (1, 4, 8):
            replacement = _constant(value, array)
        else:
            added[len(block.arguments)] = value, array
            replacement = block.add_argument(value.type, main.location)
        value.replace_all_uses_with(replacement)
    update_signature(main)
    return added


def _constant(value: ir.Value, array: Array) -> ir.Value:
    op = defining_op(value)
    assert op is not None
    type_ = ir.RankedTensorType(value.type)
    buffer: Any = np.ascontiguousarray(array)
    attribute = ir.DenseElementsAttr.get(buffer, type=type_.element_type, shape=list(type_.shape))
    with ir.InsertionPoint(op), op.location:
        return build.constant(attribute)
