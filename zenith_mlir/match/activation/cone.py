"""Values that are functions of one tensor x, element by element, and what they are at some points.

A *cone* holds what elementwise operations make of x and constants. Each value is known as float64 numbers at the points
of `GRID`, so how it is spelled plays no part. A cone can be extended by a second tensor: then values are known for each
point of x and each of `SCALES` of the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import numpy_dtype
from zenith_mlir.ir.facts import defining_op, element_type, has_static_shape, is_float, shape, splat, users
from zenith_mlir.match.activation.elementwise import Array, bounds_far_out, evaluator

_POSITIVE = (1e-3, 0.03, 0.1, 0.25, 0.5, 0.7, 1.0, 1.3, 1.7, 2.0, 2.5, 3.0, 3.7, 4.5, 6.0, 8.0, 12.0, 20.0, 30.0, 99.0)
GRID: Array = np.array([*(-x for x in reversed(_POSITIVE)), 0.0, *_POSITIVE])
SCALES: Array = np.array([0.0, 1.0, 2.0])

# Larger than the error function of float32 written out, far smaller than a model.
_MAX_OPS = 300
# From one origin to the next there are few operations: a polynomial. There are few of them, too.
_MAX_UP = 24
_MAX_ORIGINS = 16
# No activation is an exponential of an exponential of an exponential.
_MAX_DEEP = 2
# Constants of so few bits are meant as they are.
_PLAIN_BITS = 3


@dataclass(frozen=True)
class Sample:
    """A value at the points. `coarse` is how far, relatively, a constant that led to it may be off for lack of bits;
    `deep` counts the exponentials, or functions made of them, that it is nested in.
    """

    at: Array
    coarse: float = 0.0
    deep: int = 0


_DEEP = frozenset({
    "stablehlo.exponential", "stablehlo.tanh", "stablehlo.logistic", "chlo.erf", "chlo.erfc", "stablehlo.composite",
    "stablehlo.custom_call", "stablehlo.exponential_minus_one",
})  # fmt: skip


@dataclass
class Cone:
    """`samples` are in an order in which they can be computed; `roots` are the tensors of which they are functions."""

    block: ir.Block
    dims: tuple[int, ...]
    roots: tuple[ir.Value, ...] = ()
    samples: dict[ir.Value, Sample] = field(default_factory=dict)

    @classmethod
    def of(cls, x: ir.Value, block: ir.Block) -> Cone:
        """All that `block` computes of x alone."""
        return cls(block, shape(x)).extended(x, GRID)

    def extended(self, root: ir.Value, at: Array) -> Cone:
        """With what `block` computes of `root` beside."""
        cone = Cone(self.block, self.dims, (*self.roots, root), dict(self.samples))
        cone.samples[root] = Sample(at)
        frontier = deque([root])
        while frontier and len(cone.samples) - len(self.samples) < _MAX_OPS:
            for user in users(frontier.popleft()):
                if user.block == self.block and cone._take(user):
                    frontier.append(user.results[0])
        return cone

    def _take(self, op: ir.Operation) -> bool:
        if len(op.results) != 1 or op.results[0] in self.samples:
            return False
        result = op.results[0]
        function = evaluator(op)
        if function is None or not has_static_shape(result) or shape(result) != self.dims:
            return False
        operands = [self.samples.get(operand) or constant(operand) for operand in op.operands]
        known = [sample for sample in operands if sample is not None]
        numbers = [float(s.at) for s in known if s.at.ndim == 0]
        if len(known) < len(operands) or bounds_far_out(op, numbers):
            return False
        deep = (op.name in _DEEP) + max(sample.deep for sample in known)
        if deep > _MAX_DEEP:
            return False
        with np.errstate(all="ignore"):
            at = np.asarray(function(*(sample.at for sample in known)))
        self.samples[result] = Sample(at, max(sample.coarse for sample in known), deep)
        return True

    def deep_values(self, earlier: Cone | None = None) -> Iterator[tuple[ir.Value, Sample]]:
        """Values that follow from an exponential, those of an `earlier` cone left out."""
        for value, sample in self.samples.items():
            if sample.deep and (earlier is None or value not in earlier.samples):
                yield value, sample


def constant(value: ir.Value, depth: int = 4) -> Sample | None:
    """The one number that fills `value`, if only constants lead to it."""
    op = defining_op(value)
    if op is None or depth == 0:
        return None
    if op.name == "stablehlo.constant":
        number = splat(value)
        if number is None:
            return None
        if is_float(element_type(value)):
            return Sample(np.asarray(number, np.float64), _coarseness(float(number)))
        return Sample(np.asarray(number, numpy_dtype(element_type(value))))
    if op.name in ("stablehlo.broadcast_in_dim", "stablehlo.reshape"):
        return constant(op.operands[0], depth - 1)
    function = evaluator(op)
    if function is None or not op.operands:
        return None
    operands = []
    for operand in op.operands:
        sample = constant(operand, depth - 1)
        if sample is None:
            return None
        operands.append(sample)
    with np.errstate(all="ignore"):
        at = np.asarray(function(*(sample.at for sample in operands)))
    return Sample(at, max(sample.coarse for sample in operands))


def _coarseness(number: float) -> float:
    """How far off a number may be that was rounded to bfloat16 or float16; 0 for one that has more bits, or few."""
    if not np.isfinite(number) or number == 0:
        return 0.0
    mantissa, _ = np.frexp(number)
    for bits, step in ((_PLAIN_BITS, 0.0), (8, 2.0**-8), (11, 2.0**-11)):
        if float(mantissa * 2.0**bits).is_integer():
            return step
    return 0.0


def origins(value: ir.Value, block: ir.Block) -> Iterator[ir.Value]:
    """The tensors of which `value` is a function, element by element, itself first."""
    frontier = {value: defining_op(value)}
    steps, found = 0, 0
    while steps < _MAX_UP and found < _MAX_ORIGINS:
        steps += 1
        if len(frontier) == 1:
            (only,) = frontier
            steps, found = 0, found + 1
            if has_static_shape(only) and is_float(element_type(only)):
                yield only
        last = _last(frontier, block)
        if last is None or evaluator(last) is None:
            return
        del frontier[last.results[0]]
        for operand in last.operands:
            if operand not in frontier and constant(operand) is None:
                if not has_static_shape(operand) or shape(operand) != shape(value):
                    return
                frontier[operand] = defining_op(operand)
        if not frontier or sum(op is None or op.block != block for op in frontier.values()) > 1:
            return


def _last(frontier: dict[ir.Value, ir.Operation | None], block: ir.Block) -> ir.Operation | None:
    """The operation of `block` that comes last."""
    last: ir.Operation | None = None
    for op in frontier.values():
        if op is not None and op.block == block and (last is None or last.is_before_in_block(op)):
            last = op
    return last


def scaled_copies(cone: Cone, base: Cone) -> Iterator[tuple[ir.Value, float]]:
    """Values of `cone` that are multiples of the tensor by which it extends `base`, with the factors."""
    root = cone.roots[-1]
    for value, sample in cone.samples.items():
        if value not in base.samples and not sample.deep:
            ratio = sample.at.reshape(-1)[1] if sample.at.size == SCALES.size else np.nan
            if value == root or (np.isfinite(ratio) and np.array_equal(sample.at.reshape(-1), SCALES * ratio)):
                yield value, float(ratio) if value != root else 1.0
