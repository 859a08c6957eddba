"""One cross-entropy of a program: its loss, its gradient, and what else uses what lies between.

Every value is reached from the exponentials of the rows. Those that are one number a row are compared with the loss,
those of the extent of the logits with its gradient (`formula.py`). Both are found together, so that nothing of the
logits' extent outlives them: where something else uses that, it is computed anyway, and nothing is raised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import (
    element_type,
    is_float_convert,
    producer,
    shape,
    users,
)
from zenith_mlir.match.cross_entropy.cut import Cut, cut
from zenith_mlir.match.cross_entropy.exponentials import Rows, polynomial_of, rows_of
from zenith_mlir.match.cross_entropy.formula import (
    Cotangents,
    Terms,
    gradient_cotangents,
    gradient_terms,
    loss_terms,
)
from zenith_mlir.match.cross_entropy.misses import refuse_near
from zenith_mlir.match.cross_entropy.region import Region, downstream, survivor
from zenith_mlir.match.cross_entropy.sums import split_sums
from zenith_mlir.match.nomatch import NoMatch


@dataclass(frozen=True)
class Loss:
    """`value` is `sign` times the loss."""

    value: ir.Value
    terms: Terms
    sign: float


@dataclass(frozen=True)
class Gradient:
    value: ir.Value
    cotangents: Cotangents


@dataclass(frozen=True)
class Site:
    """A loss, its gradient, or both, each with the operations that compute it from `logits` and labels."""

    rows: Rows
    logits: ir.Value
    loss: Loss | None
    loss_cut: Cut | None
    gradient: Gradient | None
    gradient_cut: Cut | None

    @property
    def ops(self) -> set[ir.Operation]:
        """All that may be erased once the composites are there."""
        return {op for found in (self.loss_cut, self.gradient_cut) if found is not None for op in found.ops}

    @property
    def terms(self) -> Terms:
        found = self.loss.terms if self.loss is not None else None
        if found is None:
            assert self.gradient is not None
            found = self.gradient.cotangents.terms
        return found


def match_cross_entropy(exponential: ir.Operation) -> Site | None:
    """The cross-entropy whose exponentials `exponential` computes; None where nothing resembles one.

    Raises: NoMatch if something does, and is none or cannot be taken out.
    """
    rows = rows_of(exponential)
    if rows is None:
        return None
    region = downstream(exponential, rows.reader.dim)
    region.rows.extend(split_sums(rows.reader, region.wide))
    losses = list(_losses(rows, region))
    if not losses:
        polynomials = ((value, polynomial_of(rows.reader, value)) for value in region.rows)
        refuse_near(rows.reader, [(value, polynomial) for value, polynomial in polynomials if polynomial is not None])
    gradients = list(_gradients(rows, region, [loss.terms for loss in losses]))
    failure: NoMatch | None = None
    for loss, gradient in _pairs(losses, gradients):
        rows.refuse(exponential, "loss", "jax.nn.logsumexp or jax.nn.log_softmax")
        try:
            return _site(rows, loss, gradient)
        except NoMatch as miss:
            failure = failure or miss
    if failure is not None:
        raise failure
    return None


def _losses(rows: Rows, region: Region) -> Iterator[Loss]:
    for value in region.rows:
        polynomial = polynomial_of(rows.reader, value)
        found = None if polynomial is None else loss_terms(rows.reader, polynomial)
        if found is not None:
            yield Loss(value, *found)


def _gradients(rows: Rows, region: Region, known: list[Terms]) -> Iterator[Gradient]:
    for value in region.wide:
        polynomial = polynomial_of(rows.reader, value)
        if polynomial is None:
            continue
        own = gradient_terms(rows.reader, polynomial)
        for terms in [*reversed(known), *([] if own is None else [own])]:
            cotangents = gradient_cotangents(rows.reader, polynomial, terms)
            if cotangents is not None and not _is_inside(rows, cotangents):
                yield Gradient(value, cotangents)
                break


def _is_inside(rows: Rows, cotangents: Cotangents) -> bool:
    """Whether a cotangent varies along the columns: then it is none of a row."""
    polynomials = [p for p in (cotangents.of_loss, cotangents.of_lse) if p is not None]
    return any(
        rows.reader.column in atom.axes(rows.reader.space)
        for polynomial in polynomials
        for monomial in polynomial.terms
        for atom, _ in monomial
    )


def _pairs(losses: list[Loss], gradients: list[Gradient]) -> Iterator[tuple[Loss | None, Gradient | None]]:
    """What to try, the most of the program first: the last of the losses that differ, with the last gradient."""
    gradient = gradients[-1] if gradients else None
    tried: list[Terms] = []
    for loss in reversed(losses):
        if loss.terms not in tried:
            tried.append(loss.terms)
            yield _first_alike(losses, loss), gradient
    if not losses and gradient is not None:
        yield None, gradient


def _first_alike(losses: list[Loss], last: Loss) -> Loss:
    """The first of the losses with the same terms, or what its only user makes of it: a negation, a reshape."""
    alike = [loss for loss in losses if loss.terms == last.terms]
    found, *others = alike
    for other in others:
        if users(found.value) == [producer(other.value)]:
            found = other
    return found


def _site(rows: Rows, loss: Loss | None, gradient: Gradient | None) -> Site:
    gradient, logits = _operand(rows, gradient)
    residuals = {rows.total, rows.maximum}
    loss_cut = None if loss is None else cut(rows.reader, loss.value, logits, loss.terms, set(), None)
    of_rows = {value for value in residuals if value is not None} if loss is not None else set()
    gradient_cut = None
    if gradient is not None:
        terms = gradient.cotangents.terms
        gradient_cut = cut(rows.reader, gradient.value, logits, terms, of_rows, gradient.cotangents)
    cuts = [found for found in (loss_cut, gradient_cut) if found is not None]
    ops = {op for found in cuts for op in found.ops}
    ends = {found.value for found in (loss, gradient) if found is not None} | of_rows
    user = survivor(_following(rows, logits, cuts), ops, ends)
    if user is not None:
        raise NoMatch(
            user,
            "the softmax or its logarithm, or a gradient of it, is used by something that is no part of the loss",
            "compute metrics from the logits",
        )
    return Site(rows, logits, loss, loss_cut, gradient, gradient_cut)


def _following(rows: Rows, logits: ir.Value, cuts: list[Cut]) -> list[ir.Value]:
    """Values of the extent of the logits that the operations in `cuts` make of them."""
    known = {logits, rows.reader.logits, rows.maximum, rows.total}
    found: list[ir.Value] = []
    for op in (op for found_cut in cuts for op in found_cut.ops):
        if not known.isdisjoint(op.operands):
            known.update(op.results)
            is_logits = is_float_convert(op) and op.operands[0] == rows.reader.logits
            if not is_logits and op.name != "stablehlo.broadcast_in_dim":
                found += [value for value in op.results if shape(value) == shape(logits)]
    return found


def _operand(rows: Rows, gradient: Gradient | None) -> tuple[Gradient | None, ir.Value]:
    """Logits of 16 bits are read as they are if their gradient has 16 bits, too."""
    root = rows.reader.logits
    if gradient is None or element_type(gradient.value) == element_type(root):
        return gradient, root
    following = users(gradient.value)
    if len(following) == 1 and is_float_convert(following[0]):
        rounded = following[0].results[0]
        if element_type(rounded) == element_type(root):
            return Gradient(rounded, gradient.cotangents), root
    converted = [op.results[0] for op in users(root) if is_float_convert(op)]
    same = [value for value in converted if element_type(value) == element_type(gradient.value)]
    return gradient, (same or [root])[0]
