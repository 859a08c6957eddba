"""Masks in one form: predicates are i1, conjunctions are `and`, a select never tests a negation."""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir

from zenith_mlir.canonical import build
from zenith_mlir.canonical.splats import comparison_direction
from zenith_mlir.ir.facts import defined_by, element_type, is_float, splat

Values = Sequence[ir.Value] | None

_SWAPPED = {"EQ": "EQ", "NE": "NE", "LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}
_NEGATED = {"EQ": "NE", "NE": "EQ", "LT": "GE", "GE": "LT", "GT": "LE", "LE": "GT"}


def _direction(direction: str) -> ir.Attribute:
    return ir.Attribute.parse(f"#stablehlo<comparison_direction {direction}>")


def _is_bool(value: ir.Value) -> bool:
    element = element_type(value)
    return isinstance(element, ir.IntegerType) and element.width == 1


def _negation(value: ir.Value) -> ir.Value | None:
    """x, where `value` is the boolean `not x`."""
    inner = defined_by(value, "stablehlo.not")
    return inner.operands[0] if inner is not None and _is_bool(value) else None


def compare_constant_on_the_right(op: ir.Operation) -> Values:
    lhs, rhs = op.operands
    if splat(lhs) is None or splat(rhs) is not None:
        return None
    return [build.rebuilt(op, [rhs, lhs], comparison_direction=_direction(_SWAPPED[comparison_direction(op)]))]


# (direction, constant) -> is the comparison of a 0/1 number with that constant the predicate itself (True) or its
# negation?
_TRUTH: dict[tuple[str, float], bool] = {
    ("NE", 0): True, ("GT", 0): True, ("EQ", 1): True, ("GE", 1): True,
    ("EQ", 0): False, ("LE", 0): False, ("NE", 1): False, ("LT", 1): False,
}  # fmt: skip


def compare_of_converted_predicate(op: ir.Operation) -> Values:
    """`convert(p) != 0` and its relatives are p or not p; a bare predicate only in equalities (ordering an i1 is
    odd).
    """
    direction, number = comparison_direction(op), splat(op.operands[1])
    converted = defined_by(op.operands[0], "stablehlo.convert")
    predicate = op.operands[0] if converted is None else converted.operands[0]
    if number is None or not _is_bool(predicate) or (converted is None and direction not in ("EQ", "NE")):
        return None
    # A true i1 constant may read as -1.
    truth = _TRUTH.get((direction, abs(number) if converted is None else number))
    if truth is None:
        return None
    return [predicate if truth else build.elementwise("not", predicate)]


def not_of_not(op: ir.Operation) -> Values:
    inner = defined_by(op.operands[0], "stablehlo.not")
    return None if inner is None else [inner.operands[0]]


def not_of_compare(op: ir.Operation) -> Values:
    """Flip the comparison; for floats only equality, since a NaN makes both x < y and x >= y false."""
    inner = defined_by(op.operands[0], "stablehlo.compare")
    if inner is None:
        return None
    direction = comparison_direction(inner)
    if is_float(element_type(inner.operands[0])) and direction not in ("EQ", "NE"):
        return None
    return [build.rebuilt(inner, list(inner.operands), comparison_direction=_direction(_NEGATED[direction]))]


def fold_and_or(op: ir.Operation) -> Values:
    lhs, rhs = op.operands
    if lhs == rhs:
        return [lhs]
    number = splat(rhs)
    if number is None or not _is_bool(rhs):
        return None
    absorbing = bool(number) == (op.name == "stablehlo.or")
    return [rhs if absorbing else lhs]


def constant_predicate_right(op: ir.Operation) -> Values:
    lhs, rhs = op.operands
    return [build.rebuilt(op, [rhs, lhs])] if splat(lhs) is not None and splat(rhs) is None else None


def multiply_of_predicates(op: ir.Operation) -> Values:
    """A product of two converted predicates is the conversion of their conjunction."""
    a, b = (defined_by(value, "stablehlo.convert") for value in op.operands)
    if a is None or b is None or not (_is_bool(a.operands[0]) and _is_bool(b.operands[0])):
        return None
    both = build.elementwise("and", a.operands[0], b.operands[0])
    return [build.convert(both, element_type(op.results[0]))]


def fold_select(op: ir.Operation) -> Values:
    predicate, on_true, on_false = op.operands
    if on_true == on_false:
        return [on_true]
    number = splat(predicate)
    if number is not None:
        return [on_true if number else on_false]
    arms = (splat(on_true), splat(on_false))
    return [on_true] if arms[0] is not None and arms[0] == arms[1] and _is_bool(on_true) else None


def select_of_negation(op: ir.Operation) -> Values:
    predicate, on_true, on_false = op.operands
    positive = _negation(predicate)
    return None if positive is None else [build.rebuilt(op, [positive, on_false, on_true])]


def select_of_predicates(op: ir.Operation) -> Values:
    """select between booleans is and, or, or the predicate itself."""
    predicate, on_true, on_false = op.operands
    if not _is_bool(op.results[0]) or predicate.type != op.results[0].type:
        return None
    true_arm, false_arm = splat(on_true), splat(on_false)
    if true_arm is not None and false_arm is not None:
        return [predicate if true_arm else build.elementwise("not", predicate)]
    if false_arm is not None and not false_arm:
        return [build.elementwise("and", predicate, on_true)]
    if true_arm is not None and true_arm:
        return [build.elementwise("or", predicate, on_false)]
    return None


RULES = {
    "stablehlo.compare": [compare_constant_on_the_right, compare_of_converted_predicate],
    "stablehlo.not": [not_of_not, not_of_compare],
    "stablehlo.and": [constant_predicate_right, fold_and_or],
    "stablehlo.or": [constant_predicate_right, fold_and_or],
    "stablehlo.multiply": [multiply_of_predicates],
    "stablehlo.select": [fold_select, select_of_negation, select_of_predicates],
}
