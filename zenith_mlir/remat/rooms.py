"""The memory of a program's results, in which XLA keeps what they are made of."""

from __future__ import annotations

from collections.abc import Iterator

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op, users
from zenith_mlir.ir.signature import argument_attributes
from zenith_mlir.remat.kinds import FUSED, VIEWS, bytes_of

__all__ = ["in_room_of_results"]


def in_room_of_results(block: ir.Block) -> set[ir.Value]:
    """The values that one elementwise operation after the other makes a result of the function from, each alone: a
    gradient g of which p - 0.1 g is returned lies where the new p will. None for what goes into a donated argument,
    which is read until then, and none in the body of a loop.
    """
    terminator = list(block.operations)[-1].operation
    if terminator.name != "func.return":
        return set()
    taken = _donated_results(block, len(terminator.operands))
    own = (result for i, result in enumerate(terminator.operands) if i not in taken and len(users(result)) == 1)
    return {value for result in own for value in _made_of(result)}


def _made_of(result: ir.Value) -> Iterator[ir.Value]:
    """What `result` is computed from in place, the last first."""
    op = defining_op(result)
    while op is not None and op.name in FUSED | VIEWS:
        size = bytes_of(op.results[0].type)
        before = next((x for x in op.operands if bytes_of(x.type) == size and _is_read_once(x)), None)
        if before is None:
            return
        yield before
        op = defining_op(before)


def _is_read_once(value: ir.Value) -> bool:
    return defining_op(value) is not None and len(users(value)) == 1


def _donated_results(block: ir.Block, count: int) -> set[int]:
    """The numbers of the results that are written over an argument; all that may be where XLA has the choice."""
    arguments = argument_attributes(block.owner.operation)
    if any("jax.buffer_donor" in each for each in arguments):
        return set(range(count))
    aliased = (each["tf.aliasing_output"] for each in arguments if "tf.aliasing_output" in each)
    return {ir.IntegerAttr(number).value for number in aliased}
