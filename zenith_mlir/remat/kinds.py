"""What operations are to a memory model: views, fused away, or values that XLA puts in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import blocks, shape, splat, walk

__all__ = ["EXPENSIVE", "FREE", "FUSED", "VIEWS", "bytes_of", "is_costly", "outer_operands", "repeatable"]


def _stablehlo(names: str, dialect: str = "stablehlo") -> frozenset[str]:
    return frozenset(f"{dialect}.{name}" for name in names.split())


_DEAR_FUNCTIONS = _stablehlo("acos acosh asin asinh atan atanh cosh digamma erf erf_inv erfc lgamma sinh tan", "chlo")

VIEWS = _stablehlo("reshape")
FREE = _stablehlo("constant iota create_token after_all")

# Elementwise and data movement that XLA computes inside of the loop of its user, if it has one, or if it is cheap.
FUSED = _stablehlo(
    "abs add and atan2 bitcast_convert broadcast_in_dim broadcast cbrt ceil clamp compare complex concatenate convert "
    "cosine count_leading_zeros divide dynamic_iota dynamic_slice exponential exponential_minus_one floor imag "
    "is_finite log log_plus_one logistic maximum minimum multiply negate not or pad popcnt power real reduce_precision "
    "remainder reverse round_nearest_afz round_nearest_even rsqrt select shift_left shift_right_arithmetic "
    "shift_right_logical sign sine slice sqrt subtract tan tanh transpose xor"
) | {"chlo.square", *_DEAR_FUNCTIONS}

# Computed once even if that means memory: XLA does not repeat these in each of several users.
EXPENSIVE = (
    _stablehlo(
        "atan2 cbrt cosine divide exponential exponential_minus_one log log_plus_one logistic power remainder rsqrt "
        "sine sqrt tan tanh"
    )
    | _DEAR_FUNCTIONS
)

_EFFECTS = _stablehlo(
    "custom_call rng rng_bit_generator infeed outfeed send recv all_reduce all_gather all_to_all "
    "reduce_scatter collective_permute collective_broadcast partition_id replica_id"
) | {"func.call"}


def bytes_of(type_: ir.Type) -> int:
    """Bytes of a tensor of static shape; 0 for tokens and for what has no known size."""
    if not isinstance(type_, ir.RankedTensorType):
        return 0
    if not type_.has_static_shape:
        return 0
    return math.prod(type_.shape) * _element_bytes(type_.element_type)


def _element_bytes(element: ir.Type) -> int:
    if isinstance(element, ir.ComplexType):
        return 2 * _element_bytes(element.element_type)
    if isinstance(element, ir.IntegerType | ir.FloatType):
        return max(1, element.width // 8)
    return 0


def is_costly(op: ir.Operation) -> bool:
    """Whether computing `op` in each of several users would cost more than storing it: more work, or more to read."""
    read = [value for value in op.operands if splat(value) is None and shape(value) == shape(op.results[0])]
    return op.name in EXPENSIVE or len(read) > 1


def repeatable(op: ir.Operation) -> bool:
    """Whether `op` may run twice: neither it nor what is inside of it draws random bits or talks to anybody."""
    if op.name == "stablehlo.custom_call":
        return _pure_call(op)
    return op.name not in _EFFECTS and all(repeatable(inner) for inner in walk(op))


def _pure_call(op: ir.Operation) -> bool:
    effect = "has_side_effect" in op.attributes and ir.BoolAttr(op.attributes["has_side_effect"]).value
    target = ir.StringAttr(op.attributes["call_target_name"]).value
    return not effect and "callback" not in target and target != "annotate_device_placement"


def outer_operands(op: ir.Operation) -> Iterator[ir.Value]:
    """The operands of `op`, and the values from outside that its regions use."""
    yield from op.operands
    if not any(True for _ in blocks(op)):
        return
    inside: set[ir.Value] = set()
    for region in op.regions:
        for block in region.blocks:
            inside.update(block.arguments)
    for inner in walk(op):
        for block in blocks(inner):
            inside.update(block.arguments)
        inside.update(inner.results)
    for inner in walk(op):
        for value in inner.operands:
            if value not in inside:
                yield value
