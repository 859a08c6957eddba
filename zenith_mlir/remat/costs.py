"""How long operations take, roughly: what recomputing costs is compared with other recomputing, on one machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.composites import decomposition
from zenith_mlir.ir.facts import shape
from zenith_mlir.ir.loops import Loop
from zenith_mlir.remat.kinds import EXPENSIVE, FREE, VIEWS, bytes_of
from zenith_mlir.target import Target

__all__ = ["Rates", "flops", "seconds"]


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second: multiply-adds count as two `flops`; `host` is the way to the host's memory."""

    flops: float
    bytes: float
    host: float = 0.0

    @classmethod
    def of(cls, target: Target) -> Rates:
        if target.platform == "cuda":
            return cls(flops=100 * (target.bandwidth or 1.5e12), bytes=0.8 * (target.bandwidth or 1.5e12), host=20e9)
        return cls(flops=60e9, bytes=10e9)


def seconds(op: ir.Operation, module: ir.Operation, rates: Rates) -> float:
    """Time of `op` by itself, reading and writing memory."""
    return flops(op, module) / rates.flops + moved(op) / rates.bytes


def moved(op: ir.Operation) -> int:
    if op.name in FREE | VIEWS:
        return 0
    return sum(bytes_of(value.type) for value in (*op.operands, *op.results))


def flops(op: ir.Operation, module: ir.Operation) -> float:
    """Floating-point operations of `op`; those of a loop count once an iteration."""
    count = _FLOPS.get(op.name)
    if count is not None:
        return count(op, module)
    if op.name in FREE | VIEWS or not op.results:
        return 0.0
    return math.prod(_shape(op.results[0])) * (8.0 if op.name in EXPENSIVE else 1.0)


def _dot(op: ir.Operation, module: ir.Operation) -> float:
    lhs = shape(op.operands[0])
    numbers = _dimension_numbers(op)
    return 2.0 * math.prod(_shape(op.results[0])) * math.prod(lhs[d] for d in numbers)


def _dimension_numbers(op: ir.Operation) -> list[int]:
    from jaxlib.mlir.dialects import stablehlo

    return list(stablehlo.DotDimensionNumbers(op.attributes["dot_dimension_numbers"]).lhs_contracting_dimensions)


def _convolution(op: ir.Operation, module: ir.Operation) -> float:
    from jaxlib.mlir.dialects import stablehlo

    kernel = shape(op.operands[1])
    numbers = stablehlo.ConvDimensionNumbers(op.attributes["dimension_numbers"])
    taps = math.prod(kernel) // kernel[numbers.kernel_output_feature_dimension]
    return 2.0 * math.prod(_shape(op.results[0])) * taps


def _reduce(op: ir.Operation, module: ir.Operation) -> float:
    return float(math.prod(_shape(op.operands[0])))


def _window(op: ir.Operation, module: ir.Operation) -> float:
    window = ir.DenseI64ArrayAttr(op.attributes["window_dimensions"])
    return float(math.prod(_shape(op.results[0])) * math.prod(window))


def _while(op: ir.Operation, module: ir.Operation) -> float:
    loop = Loop(op)
    trips = loop.counter[1] if loop.counter is not None else 1
    return trips * _body(loop.body, module)


def _branches(op: ir.Operation, module: ir.Operation) -> float:
    return max((_body(region.blocks[0], module) for region in op.regions), default=0.0)


def _composite(op: ir.Operation, module: ir.Operation) -> float:
    return _body(decomposition(op, module).regions[0].blocks[0], module)


def _body(block: ir.Block, module: ir.Operation) -> float:
    return sum(flops(op.operation, module) for op in block.operations)


def _shape(value: ir.Value) -> tuple[int, ...]:
    return shape(value) if isinstance(value.type, ir.RankedTensorType) else ()


_FLOPS: Mapping[str, Callable[[ir.Operation, ir.Operation], float]] = {
    "stablehlo.dot_general": _dot,
    "stablehlo.convolution": _convolution,
    "stablehlo.reduce": _reduce,
    "stablehlo.reduce_window": _window,
    "stablehlo.select_and_scatter": lambda op, _: float(math.prod(_shape(op.operands[0]))),
    "stablehlo.while": _while,
    "stablehlo.case": _branches,
    "stablehlo.if": _branches,
    "stablehlo.composite": _composite,
}
