"""What resembles a cross-entropy with labels and is none: why, in a user's words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op, is_float_convert, producer
from zenith_mlir.match.algebra.polynomial import Monomial, Polynomial, Tensor, Total
from zenith_mlir.match.cross_entropy.atoms import Indicator
from zenith_mlir.match.cross_entropy.formula import loss_terms
from zenith_mlir.match.cross_entropy.reader import CrossEntropyReader
from zenith_mlir.match.nomatch import NoMatch

Reason = tuple[str, str]
_Test = Callable[[CrossEntropyReader, Polynomial], Reason | None]


def refuse_near(reader: CrossEntropyReader, rows: Sequence[tuple[ir.Value, Polynomial]]) -> None:
    """Raises: NoMatch if one of the numbers of rows, given with their polynomials, is nearly a cross-entropy."""
    for test in (_weighted, _targets, _clipped):
        for value, polynomial in rows:
            reason = test(reader, reader.resolved(polynomial))
            if reason is not None:
                raise NoMatch(producer(value), *reason)


def _weighted(reader: CrossEntropyReader, polynomial: Polynomial) -> Reason | None:
    """The same factor in all terms of a loss."""
    shared: Monomial = reduce(frozenset.intersection, polynomial.terms) if polynomial.terms else frozenset()
    common = frozenset(factor for factor in shared if isinstance(factor[0], Tensor))
    if not common:
        return None
    rest = Polynomial({monomial - common: coefficient for monomial, coefficient in polynomial.terms.items()})
    if loss_terms(reader, rest) is None:
        return None
    return "each row is weighed before it is summed along the columns", "multiply the loss of the row by its weight"


def _targets(reader: CrossEntropyReader, polynomial: Polynomial) -> Reason | None:
    """Logits weighed with a tensor that is no one-hot matrix."""
    for product in _sums(polynomial):
        tensors = [atom.value for atom in product if isinstance(atom, Tensor)]
        if reader.logits in tensors and len(tensors) > 1:
            return (
                "the targets of the cross-entropy are a matrix of probabilities, not labels",
                "pass integer labels to optax.softmax_cross_entropy_with_integer_labels",
            )
    return None


def _clipped(reader: CrossEntropyReader, polynomial: Polynomial) -> Reason | None:
    """The logarithm of something else than the softmax, at the label."""
    for product in _sums(polynomial):
        labelled = any(isinstance(atom, Indicator) for atom in product)
        for atom in product:
            if labelled and isinstance(atom, Tensor) and (what := _under_logarithm(atom.value)) is not None:
                return what, "compute the loss from the logits, as with from_logits=True"
    return None


def _under_logarithm(value: ir.Value) -> str | None:
    log = defining_op(value)
    if log is None or log.name != "stablehlo.log":
        return None
    op = defining_op(log.operands[0])
    while op is not None and is_float_convert(op):
        op = defining_op(op.operands[0])
    return None if op is None else _CHANGES.get(op.name)


_CHANGES = {
    **dict.fromkeys(
        ("stablehlo.clamp", "stablehlo.maximum", "stablehlo.minimum"),
        "the probabilities are clipped before their logarithm is taken",
    ),
    "stablehlo.add": "something is added to the probabilities before their logarithm is taken",
}


def _sums(polynomial: Polynomial) -> list[list[object]]:
    """The atoms under each sum along the columns."""
    atoms = (atom for monomial in polynomial.terms for atom, _ in monomial)
    return [[inner for inner, _ in atom.product] for atom in atoms if isinstance(atom, Total)]
