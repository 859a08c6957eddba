"""The derivative of an attention, as polynomials in the atoms of its program.

With p the probabilities, do vᵀ = dp' the product of cotangent and values, and steps as found between the products:
dp is dp' taken back through the steps after the softmax, dx = p (dp - Σ p dp), and dx taken back through the steps on
the logits gives the gradients of what those steps read and of q kᵀ. (Griewank & Walther 2008, reverse mode.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jaxlib.mlir import ir

from zenith_mlir.match.algebra.polynomial import Polynomial
from zenith_mlir.match.attention.gradient.reader import AttentionReader
from zenith_mlir.match.attention.logits import RawStep
from zenith_mlir.match.attention.softmax import Softmax
from zenith_mlir.match.nomatch import NoMatch


@dataclass(frozen=True)
class Derivative:
    """Gradients of the bare product of queries and keys (`scores`), and of operands of steps by the step's position."""

    scores: Polynomial
    operands: dict[int, Polynomial] = field(default_factory=dict)


def value_weights(reader: AttentionReader, softmax: Softmax, raw: Sequence[RawStep]) -> list[Polynomial]:
    """The probabilities, and what becomes of them by each step after the softmax; the last multiply the values."""
    weights = [reader.read(softmax.probabilities, softmax.view)]
    for step in raw:
        if step.kind.startswith("post_"):
            weights.append(weights[-1] * _factor(reader, step))
    return weights


def derivative(
    reader: AttentionReader, softmax: Softmax, raw: Sequence[RawStep], wanted: set[int], cotangent: Polynomial
) -> Derivative:
    """Differentiate the steps `raw` around `softmax`; `wanted` are the positions whose operand may have a gradient.

    Raises: NoMatch at a step that is not differentiated; NotPolynomial if a term grows too long.
    """
    posts = [i for i, step in enumerate(raw) if step.kind.startswith("post_")]
    operands: dict[int, Polynomial] = {}
    p, *_ = weights = value_weights(reader, softmax, raw)
    current = cotangent
    for i, before in reversed(list(zip(posts, weights[:-1], strict=True))):
        if raw[i].kind == "post_multiply" and i in wanted:
            operands[i] = current * before
        current = current * _factor(reader, raw[i])
    mean = reader.row_total(p * current)
    current = p * (current - mean)
    operands |= {i: (reader.sink_share() * mean).scaled(-1.0) for i in wanted if raw[i].kind == "sink"}
    for i, step in reversed([(i, step) for i, step in enumerate(raw) if i not in posts and step.kind != "sink"]):
        rule = _RULES.get(step.kind)
        if rule is None:
            raise NoMatch(step.op, f"the gradient through {step.kind} is not fused")
        before = current
        current = rule(reader, step, current)
        if i in wanted and step.kind in _OPERAND_RULES:
            operands[i] = _OPERAND_RULES[step.kind](reader, step, before)
    return Derivative(current, operands)


def _factor(reader: AttentionReader, step: RawStep) -> Polynomial:
    """What a step multiplies gradients by."""
    if step.kind in ("scale", "post_scale"):
        return Polynomial.constant(step.value or 0.0)
    assert step.operand is not None
    if step.kind in ("select", "post_select"):
        chosen = reader.predicate(step.operand, step.view)
        return Polynomial.constant(1.0) - chosen if step.negated else chosen
    factor = reader.read(step.operand, step.view)
    return factor.reciprocal() if step.kind == "divide" else factor


def _through(reader: AttentionReader, step: RawStep, gradient: Polynomial) -> Polynomial:
    return gradient * _factor(reader, step)


def _unchanged(reader: AttentionReader, step: RawStep, gradient: Polynomial) -> Polynomial:
    return gradient


def _through_tanh(reader: AttentionReader, step: RawStep, gradient: Polynomial) -> Polynomial:
    y = reader.read(step.op.results[0], step.view)
    return gradient - gradient * y * y


_RULES: dict[str, Callable[[AttentionReader, RawStep, Polynomial], Polynomial]] = {
    "scale": _through,
    "multiply": _through,
    "divide": _through,
    "select": _through,
    "offset": _unchanged,
    "add": _unchanged,
    "subtract": _unchanged,
    "tanh": _through_tanh,
}


def _of_factor(reader: AttentionReader, step: RawStep, gradient: Polynomial) -> Polynomial:
    """Of m in x · m."""
    return gradient * reader.read(_other(step), step.view)


def _of_divisor(reader: AttentionReader, step: RawStep, gradient: Polynomial) -> Polynomial:
    """Of m in x / m: - x / m²."""
    return gradient * reader.read(step.op.results[0], step.view).scaled(-1.0) * _factor(reader, step)


def _other(step: RawStep) -> ir.Value:
    """The logits that a step takes beside its operand."""
    a, b = step.op.operands
    return b if a == step.operand else a


_OPERAND_RULES: dict[str, Callable[[AttentionReader, RawStep, Polynomial], Polynomial]] = {
    "add": _unchanged,
    "subtract": lambda reader, step, gradient: gradient.scaled(-1.0),
    "multiply": _of_factor,
    "divide": _of_divisor,
}
