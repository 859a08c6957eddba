"""The operations between the operands of a cross-entropy, or of its gradient, and the result."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.cones import cone
from zenith_mlir.ir.facts import SHAPE_OPS, defining_op, element_type, is_float, producer, shape, splat
from zenith_mlir.match.algebra.polynomial import NotPolynomial, Polynomial
from zenith_mlir.match.constants import EXACT_OPS
from zenith_mlir.match.cross_entropy.formula import Cotangents, Terms, log_sum_exp
from zenith_mlir.match.cross_entropy.reader import CrossEntropyReader
from zenith_mlir.match.cross_entropy.rows import can_be_rows
from zenith_mlir.match.nomatch import NoMatch


@dataclass(frozen=True)
class Leaf:
    """`value` is `factor` times a cotangent."""

    value: ir.Value
    factor: float


@dataclass(frozen=True)
class Share:
    """A constant operand in which the cotangent is hidden."""

    op: ir.Operation
    index: int
    number: float


@dataclass(frozen=True)
class Cut:
    """`ops` compute a result from the logits, the labels, residuals, constants and `of_loss` and `of_lse`, which are
    the cotangents or multiples of them. A cotangent that is one `number` everywhere is hidden in constants, the
    `shares`.
    """

    ops: list[ir.Operation]
    of_loss: list[Leaf]
    of_lse: list[Leaf]
    number: float | None = None
    shares: tuple[Share, ...] = ()


def cut(
    reader: CrossEntropyReader,
    result: ir.Value,
    logits: ir.Value,
    terms: Terms,
    residuals: Collection[ir.Value],
    cotangents: Cotangents | None,
) -> Cut:
    """Cut `result` loose.

    Raises: NoMatch if it depends on more.
    """
    labels = terms.indicator.labels
    block = producer(result).block
    number = None if cotangents is None else _number(cotangents.of_loss)
    wanted = [] if cotangents is None else [cotangents.of_lse, None if number is not None else cotangents.of_loss]
    found: list[list[Leaf]] = [[], []]

    if cotangents is not None and _plays_two_roles(reader, cotangents):
        raise NoMatch(producer(result), "a cotangent of the loss is a sum or maximum that its gradient reads, too")

    def enter(value: ir.Value, op: ir.Operation | None) -> bool:
        for leaves, polynomial in zip(found, wanted, strict=False):
            factor = None if polynomial is None else _factor(reader, value, polynomial)
            if factor is not None:
                leaves.append(Leaf(value, factor))
                return False
        if op is None or op.name in _BARRIERS or (op.block != block and op.name not in EXACT_OPS):
            culprit = producer(result) if op is None else op
            what = "loss" if cotangents is None else "gradient of the loss"
            raise NoMatch(culprit, f"the {what} depends on more than logits, labels and one cotangent a row")
        return op.name != "stablehlo.constant"

    ops = cone([result], {logits, labels, *residuals}, enter)
    of_lse, of_loss = found
    if any(splat(leaf.value) is not None and leaf.factor != 1 for leaf in of_lse):
        raise NoMatch(producer(result), "the cotangent of log-sum-exp is one of several constants")
    for polynomial, leaves in zip(wanted, found, strict=False):
        if polynomial is not None and not leaves:
            raise NoMatch(producer(result), "the cotangent of the loss is no value of the program")
    shares = None if number is None else _shares(result, set(ops), shape(logits))
    if shares is None and number is not None:
        raise NoMatch(producer(result), "the cotangent of the loss is no value of the program")
    return Cut(ops, of_loss, of_lse, number, tuple(shares or ()))


def _plays_two_roles(reader: CrossEntropyReader, cotangents: Cotangents) -> bool:
    """Whether what stands for a cotangent would stand for something else in the gradient, too."""
    own = [reader.sum, reader.sum.reciprocal(), reader.maximum, reader.log_sum, log_sum_exp(reader)]
    if any(cotangents.of_loss.ratio_to(polynomial) is not None for polynomial in own):
        return True
    of_lse = cotangents.of_lse
    if of_lse is None:
        return False
    # A number may be any constant of the program.
    read = own if cotangents.terms.z_loss else own[:2]
    numbers = _number(of_lse) is not None and _number(cotangents.of_loss) is not None
    return numbers or any(of_lse.ratio_to(polynomial) is not None for polynomial in read)


def _shares(value: ir.Value, ops: Collection[ir.Operation], extent: tuple[int, ...]) -> list[Share] | None:
    """The constants that `value`, computed by `ops`, is linear in; None if it is not linear in constants."""
    op = producer(value)
    if op not in ops:
        return None
    found: list[Share] = []
    for choice in _LINEAR.get(op.name, ()):
        found = []
        for index in choice:
            inner = _share(op, index, ops, extent)
            if inner is None:
                break
            found += inner
        else:
            return found
    return None


def _share(op: ir.Operation, index: int, ops: Collection[ir.Operation], extent: tuple[int, ...]) -> list[Share] | None:
    operand = op.operands[index]
    number = splat(operand)
    if number is None:
        return None if defining_op(operand) is None else _shares(operand, ops, extent)
    if not number:
        return []
    placed = shape(operand) == extent or math.prod(shape(operand)) == math.prod(extent[:-1])
    return [Share(op, index, float(number))] if placed else None


# Operands in all of which an operation is linear at once; of a product, in either.
_LINEAR: dict[str, tuple[tuple[int, ...], ...]] = {
    **dict.fromkeys(("stablehlo.add", "stablehlo.subtract"), ((0, 1),)),
    **dict.fromkeys(("stablehlo.negate", "stablehlo.reduce", "stablehlo.gather", *SHAPE_OPS), ((0,),)),
    "stablehlo.multiply": ((0,), (1,)),
    "stablehlo.divide": ((0,),),
    "stablehlo.select": ((1, 2),),
    "stablehlo.scatter": ((0, 2),),
}


_BARRIERS = frozenset(
    {
        "stablehlo.while", "stablehlo.case", "stablehlo.if", "stablehlo.optimization_barrier", "stablehlo.custom_call",
        "stablehlo.composite", "stablehlo.convolution",
    }
)  # fmt: skip


def _number(polynomial: Polynomial) -> float | None:
    ((monomial, coefficient),) = polynomial.terms.items() if len(polynomial.terms) == 1 else ((None, 0.0),)
    return coefficient if monomial is not None and not monomial else None


def _factor(reader: CrossEntropyReader, value: ir.Value, polynomial: Polynomial) -> float | None:
    """What `value` is of the cotangent `polynomial`."""
    rows = reader.row_dims
    if not is_float(element_type(value)) or not can_be_rows(value, rows):
        return None
    wide = math.prod(shape(value)) != math.prod(rows)
    view = reader.view if wide else reader.space.regroup(reader.space.resolve_view(reader.rows), shape(value))
    if view is None:
        return None
    try:
        found = reader.resolved(reader.read(value, view))
    except NotPolynomial:
        return None
    return found.ratio_to(reader.resolved(polynomial))
