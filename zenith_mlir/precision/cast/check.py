"""`violations`: what no program under a precision policy may hold. For tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import element_type, walk
from zenith_mlir.precision.cast.classes import CLASSES, Kind, chooses

_NARROW = ("bf16", "f16")
_SUMMING = ("stablehlo.reduce", "stablehlo.reduce_window", "stablehlo.scatter", "stablehlo.select_and_scatter")
_PRECISE = tuple(
    f"stablehlo.{name}"
    for name in ("exponential", "exponential_minus_one", "log", "log_plus_one", "power", "rsqrt", "sqrt")
)


def violations(module: ir.Operation) -> list[str]:
    """Sums in 16 bits, exponentials of 16 bits, products of 16 bits that are rounded where they are summed, and loops
    that carry a value in two types; in words.

    A program in which somebody else wrote 16-bit arithmetic has some.
    """
    return [text for op in walk(module) for text in _of(op)]


def _of(op: ir.Operation) -> Iterator[str]:
    types = [_element(value) for value in (*op.operands, *op.results)]
    if CLASSES.get(op.name) == Kind.ALLOW and _element(op.operands[0]) in _NARROW and types[-1] != "f32":
        yield f"{op.name} of {types[0]} gives {types[-1]}"
    if CLASSES.get(op.name) == Kind.ALLOW and types[0] != types[1]:
        yield f"{op.name} of {types[0]} and {types[1]}"
    if op.name in _SUMMING and any(type_ in _NARROW for type_ in types) and not _only_chooses(op):
        yield f"{op.name} sums {', '.join(types)}"
    if op.name in _PRECISE and types[0] in _NARROW:
        yield f"{op.name} of {types[0]}"
    if op.name == "stablehlo.while":
        yield from _loop(op)


def _only_chooses(op: ir.Operation) -> bool:
    if op.name == "stablehlo.scatter":  # an update that replaces
        return len(list(op.regions[0].blocks[0].operations)) == 1
    return op.name in ("stablehlo.reduce", "stablehlo.reduce_window") and chooses(op)


def _loop(op: ir.Operation) -> Iterator[str]:
    cond, body = (region.blocks[0] for region in op.regions)
    *_, end = body.operations
    carried = zip(op.operands, cond.arguments, body.arguments, end.operation.operands, op.results, strict=True)
    for i, values in enumerate(carried):
        if len({str(value.type) for value in values}) != 1:
            yield f"stablehlo.while carries value {i} as {', '.join(str(value.type) for value in values)}"


def _element(value: ir.Value) -> str:
    return str(element_type(value)) if isinstance(value.type, ir.RankedTensorType) else ""
