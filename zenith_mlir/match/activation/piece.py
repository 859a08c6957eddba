"""What becomes one composite, and the pair of an activation and its gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jaxlib.mlir import ir

from zenith_mlir.dialects.gelu import GeluSpec
from zenith_mlir.dialects.silu import SiluSpec
from zenith_mlir.dialects.swiglu import SwigluSpec
from zenith_mlir.ir.cones import cone
from zenith_mlir.ir.facts import defined_by, element_type, float_width, is_float_convert, users
from zenith_mlir.match.activation.cone import constant
from zenith_mlir.match.activation.operands import Biased

Spec = GeluSpec | SiluSpec | SwigluSpec
_MAX_OPS = 300


@dataclass(frozen=True)
class Piece:
    """`ops` compute `results` from `operands` and constants, producers first."""

    ops: list[ir.Operation]
    operands: list[ir.Value]
    results: list[ir.Value]

    @classmethod
    def of(cls, operands: Sequence[ir.Value], results: Sequence[ir.Value], block: ir.Block) -> Piece | None:
        """What `block` computes `results` from; None if they need anything else."""

        def enter(value: ir.Value, op: ir.Operation | None) -> bool:
            if op is not None and op.name == "stablehlo.constant":
                return False
            if op is None or (op.block != block and constant(value) is None):
                raise _Elsewhere
            return True

        try:
            ops = cone(list(results), set(operands), enter)
        except _Elsewhere:
            return None
        return cls(ops, list(operands), list(results)) if len(ops) < _MAX_OPS else None


class _Elsewhere(Exception):
    """A value is computed from something that is no operand."""


@dataclass(frozen=True)
class Site:
    """An activation, and its gradient if the program has it; one of the two may be missing. `name` is that of the
    activation's op.
    """

    name: str
    spec: Spec
    forward: Piece | None
    gradient: Piece | None

    @property
    def ops(self) -> set[ir.Operation]:
        return {op for piece in (self.forward, self.gradient) if piece is not None for op in piece.ops}

    @property
    def results(self) -> set[ir.Value]:
        return {value for piece in (self.forward, self.gradient) if piece is not None for value in piece.results}

    def uses_alone(self, value: ir.Value) -> bool:
        """Whether nothing else reads `value`."""
        return set(users(value)) <= self.ops

    def with_biases(self, sums: Mapping[ir.Value, Biased], block: ir.Block) -> Site:
        """With the sums that are its operands taken in: their tensors, then their biases are operands instead."""
        pieces: list[Piece | None] = []
        for piece in (self.forward, self.gradient):
            taken = [] if piece is None else [sums[value] for value in piece.operands if value in sums]
            rest = [] if piece is None else [value for value in piece.operands if value not in sums]
            operands = [*(s.tensor for s in taken), *(s.bias for s in taken), *rest]
            wider = None if piece is None else Piece.of(operands, piece.results, block)
            if piece is not None and wider is None:
                return self
            pieces.append(wider)
        return Site(self.name, replace(self.spec, bias=True), *pieces)


def settled(value: ir.Value) -> ir.Value:
    """What `value` is rounded to, where nothing else uses it."""
    while len(readers := users(value)) == 1 and is_float_convert(readers[0]):
        if width(readers[0].results[0]) >= width(value):
            break
        value = readers[0].results[0]
    return value


def narrowest(x: ir.Value) -> ir.Value:
    """Of what `x` is converted from the value of the fewest bits, the first of these."""
    best = x
    while (op := defined_by(x, "stablehlo.convert")) is not None and is_float_convert(op):
        x = op.operands[0]
        if width(x) <= width(best):
            best = x
    return best


def used_outside(forward: Piece | None, gradient: Piece | None) -> Piece | None:
    """The forward, unless only the gradient uses its result, which then computes it itself."""
    if forward is None or gradient is None:
        return forward
    used = {user for value in forward.results for user in users(value)}
    return forward if not used <= set(gradient.ops) else None


def width(value: ir.Value) -> int:
    return float_width(element_type(value))
