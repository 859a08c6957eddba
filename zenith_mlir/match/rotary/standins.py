"""Operands in the form that a zenith.rotary takes, where the program has them in another one.

Features may lie in other dimensions than the last, in several of them, or in complex numbers. Then the composite takes
a value made of that one, and its decomposition begins by making the original of it again: the same numbers, moved
twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from jaxlib.mlir import ir

from zenith_mlir.canonical import build
from zenith_mlir.ir.facts import defining_op, element_type, producer, shape


@dataclass(frozen=True)
class StandIn:
    """What the composite takes for `value`: that with its `features` dimensions last and in one; the real and the
    imaginary part of a complex one.
    """

    value: ir.Value
    features: tuple[int, ...]

    @property
    def is_needed(self) -> bool:
        return self.is_complex or self.features != (len(shape(self.value)) - 1,)

    @property
    def is_complex(self) -> bool:
        return isinstance(element_type(self.value), ir.ComplexType)

    @property
    def order(self) -> list[int]:
        """The dimensions of `value` with the features last."""
        return [*(i for i in range(len(shape(self.value))) if i not in self.features), *self.features]


Made = dict[StandIn, tuple[list[ir.Value], ir.Value]]


def emit(stand_in: StandIn, ops: Sequence[ir.Operation], made: Made) -> tuple[list[ir.Value], list[ir.Operation]]:
    """The operands that stand for a value, and `ops` reading what is made of them again.

    Rotations share operations that read the value: what was `made` for one of them serves all.
    """
    value = stand_in.value
    if not stand_in.is_needed:
        return [value], list(ops)
    if stand_in not in made:
        with _after(value), ops[-1].location:
            operands = _parts(value) if stand_in.is_complex else [_flat(stand_in)]
            made[stand_in] = operands, _again(stand_in, operands)
    operands, again = made[stand_in]
    for op in ops:
        for i, operand in enumerate(op.operands):
            if operand == value:
                op.operands[i] = again
    return operands, [*_making(again, operands), *ops]


def join(result: ir.Value, rows: int) -> list[ir.Operation]:
    """The operation that puts the last `rows` dimensions of `result` in one; users read what is made of that again."""
    if rows == 1:
        return []
    dims = list(shape(result))
    flat_dims = [*dims[:-rows], prod(dims[-rows:])]
    with _after(result), producer(result).location:
        flat = build.reshape(result, build.tensor(flat_dims, element_type(result)))
        again = build.reshape(flat, build.tensor(dims, element_type(result)))
    result.replace_all_uses_except(again, producer(flat))
    return [producer(flat)]


def _again(stand_in: StandIn, operands: Sequence[ir.Value]) -> ir.Value:
    if stand_in.is_complex:
        return _complex(stand_in.value, *operands)
    return _unflat(stand_in, operands[0])


def _after(value: ir.Value) -> ir.InsertionPoint:
    """Right behind what computes `value`, or at the start of the block where it is an argument."""
    op = defining_op(value)
    return (
        ir.InsertionPoint.at_block_begin(ir.BlockArgument(value).owner) if op is None else ir.InsertionPoint.after(op)
    )


def _parts(value: ir.Value) -> list[ir.Value]:
    part = build.tensor(shape(value), ir.ComplexType(element_type(value)).element_type)
    names = ("stablehlo.real", "stablehlo.imag")
    return [ir.Operation.create(name, results=[part], operands=[value]).results[0] for name in names]


def _complex(value: ir.Value, real: ir.Value, imag: ir.Value) -> ir.Value:
    made: ir.Value = ir.Operation.create("stablehlo.complex", results=[value.type], operands=[real, imag]).results[0]
    return made


def _flat(stand_in: StandIn) -> ir.Value:
    moved = _transposed(stand_in.value, stand_in.order)
    kept = len(stand_in.order) - len(stand_in.features)
    dims = [*shape(moved)[:kept], prod(shape(moved)[kept:])]
    return _reshaped(moved, dims)


def _unflat(stand_in: StandIn, flat: ir.Value) -> ir.Value:
    order = stand_in.order
    dims = [shape(stand_in.value)[i] for i in order]
    apart = _reshaped(flat, dims)
    return _transposed(apart, [order.index(i) for i in range(len(order))])


def _transposed(value: ir.Value, order: list[int]) -> ir.Value:
    return value if order == sorted(order) else build.transpose(value, order)


def _reshaped(value: ir.Value, dims: list[int]) -> ir.Value:
    return value if dims == list(shape(value)) else build.reshape(value, build.tensor(dims, element_type(value)))


def _making(value: ir.Value, stops: Sequence[ir.Value]) -> list[ir.Operation]:
    """The operations that compute `value` from `stops`, producers first."""
    if value in stops:
        return []
    op = producer(value)
    return [*(made for operand in op.operands for made in _making(operand, stops)), op]
