"""Composites in the place of a loss and of its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.canonical import build
from zenith_mlir.dialects import cross_entropy, cross_entropy_vjp
from zenith_mlir.dialects.cross_entropy import CrossEntropySpec
from zenith_mlir.dialects.cross_entropy_vjp import CrossEntropyVjpSpec
from zenith_mlir.ir.cones import cone
from zenith_mlir.ir.facts import element_type, producer, shape, users
from zenith_mlir.ir.outline import outline_composite
from zenith_mlir.match.cross_entropy.cut import Leaf, Share
from zenith_mlir.match.cross_entropy.region import in_order
from zenith_mlir.match.cross_entropy.rows import as_rows, chain, exported, like, scaled, shaped, wide
from zenith_mlir.match.cross_entropy.site import Site
from zenith_mlir.match.placement import first_user


@dataclass(frozen=True)
class Raised:
    """The composite of a loss; `values` stand in the program for those that it gives."""

    composite: ir.Operation
    spec: CrossEntropySpec
    values: dict[ir.Value, ir.Value]


@dataclass
class _Operands:
    """What a composite takes, and the operations in its decomposition that make of it what the program has."""

    values: list[ir.Value]
    ops: list[ir.Operation]
    aliases: dict[ir.Value, ir.Value]

    def stand_for(self, value: ir.Value, by: ir.Value, source: ir.Value) -> None:
        """`by`, made of the operand `source`, is the same as `value`."""
        if by != value:
            self.aliases[value] = by
            self.ops += chain(by, source)


def outline_loss(module: ir.Operation, site: Site) -> Raised:
    """The composite of the loss. Maximum and sum of each row are results of it where something else needs them."""
    loss, found = site.loss, site.loss_cut
    assert loss is not None and found is not None and site.rows.maximum is not None
    statistics, inside = (site.rows.maximum, site.rows.total), set(found.ops)
    spec = CrossEntropySpec(
        smoothing=loss.terms.smoothing,
        z_loss=loss.terms.z_loss,
        outside=loss.terms.outside,
        infinity="inf" if site.rows.guarded else "nan",
        residuals=site.gradient is not None or any(set(users(value)) - inside for value in statistics),
    )
    operands = _operands(site, producer(loss.value))
    given = [(loss.value, loss.sign), *((value, 1.0) for value in statistics if spec.residuals)]
    exports = [exported(value, site.rows.dims, sign) for value, sign in given]
    ops = [*operands.ops, *found.ops, *(op for export in exports for op in export.ops)]
    results = [export.result for export in exports]
    # What the composite takes in has to read the value itself, not what comes back of it.
    inner = {export.back: value for export, (value, _) in zip(exports, given, strict=True) if export.back is not None}
    with producer(loss.value).location:
        attributes = spec.to_attributes()
    spec.verify([shape(value) for value in operands.values], [shape(value) for value in results])
    composite = outline_composite(
        module, cross_entropy.NAME, ops, operands.values, results, attributes, aliases={**operands.aliases, **inner}
    )
    _settle(composite)
    instead = [
        result if export.back is None else export.back
        for export, result in zip(exports, composite.results, strict=True)
    ]
    return Raised(composite, spec, dict(zip([value for value, _ in given], instead, strict=True)))


def outline_gradient(module: ir.Operation, site: Site, loss: Raised | None) -> tuple[ir.Operation, CrossEntropyVjpSpec]:
    """The composite of the gradient; it takes the statistics of the rows from that of the loss."""
    gradient, found = site.gradient, site.gradient_cut
    assert gradient is not None and found is not None
    terms, instead = gradient.cotangents.terms, {} if loss is None else loss.values
    spec = CrossEntropyVjpSpec(
        smoothing=terms.smoothing,
        z_loss=terms.z_loss,
        outside=terms.outside,
        infinity="inf" if site.rows.guarded else "nan",
        residuals=loss is not None,
        lse_cotangent=bool(found.of_lse),
    )
    result = gradient.value
    before = first_user([result], producer(result).block)
    operands = _operands(site, before)
    with before.location, ir.InsertionPoint(before):
        if found.number is None:
            _take(operands, found.of_loss, site, instead)
        else:
            _reveal(operands, found.shares, found.number, site)
        if found.of_lse:
            _take(operands, found.of_lse, site, instead)
    if loss is not None:
        operands.values += list(loss.composite.results)[1:]
    stops = {*operands.values, *operands.aliases}
    ops = [*operands.ops, *cone([gradient.value], stops, _is_computed)]
    with before.location:
        attributes = spec.to_attributes()
    spec.verify([shape(value) for value in operands.values], [shape(result)])
    composite = outline_composite(
        module,
        cross_entropy_vjp.NAME,
        ops,
        operands.values,
        [result],
        attributes,
        before,
        aliases=operands.aliases,
    )
    return composite, spec


def _is_computed(value: ir.Value, op: ir.Operation | None) -> bool:
    assert op is not None, "what the gradient depends on was looked at before"
    return op.name != "stablehlo.constant"


def _operands(site: Site, before: ir.Operation) -> _Operands:
    """Logits and labels, these in the shape that the composite wants."""
    labels = site.terms.indicator.labels
    found = _Operands([site.logits, labels], [], {})
    if shape(labels) != site.rows.dims:
        with before.location, ir.InsertionPoint(before):
            operand = shaped(labels, site.rows.dims)
            found.values[1] = operand
            found.stand_for(labels, shaped(operand, shape(labels)), operand)
    return found


def _take(operands: _Operands, leaves: list[Leaf], site: Site, instead: dict[ir.Value, ir.Value]) -> None:
    """A cotangent, made of the one of `leaves` that needs least, as the next operand."""
    current = {instead.get(leaf.value, leaf.value): leaf.factor for leaf in leaves}
    best = min(current, key=lambda value: (shape(value) != site.rows.dims, current[value] != 1))
    operand = scaled(as_rows(best, site.rows.dims), 1 / current[best])
    operands.values.append(operand)
    for value, factor in current.items():
        if value != operand:
            operands.stand_for(value, like(scaled(operand, factor), value), operand)


def _reveal(operands: _Operands, shares: Sequence[Share], number: float, site: Site) -> None:
    """A cotangent that is `number` in each row is no value of its own: it becomes the next operand, and the constants
    that hide it become multiples of it.
    """
    first, *_ = in_order(share.op for share in shares)
    with first.location, ir.InsertionPoint(first):
        element = wide(element_type(site.gradient.value)) if site.gradient is not None else ir.F32Type.get()
        operand = build.splat_constant(build.tensor(site.rows.dims, element), number)
    operands.values.append(operand)
    for share in shares:
        with share.op.location, ir.InsertionPoint(share.op):
            hidden = share.op.operands[share.index]
            share.op.operands[share.index] = like(scaled(operand, share.number / number), hidden)


def _settle(composite: ir.Operation) -> None:
    """Move what uses the results and stands before `composite` behind it."""
    late: dict[ir.Operation, None] = {}
    frontier = list(composite.results)
    while frontier:
        for user in users(frontier.pop()):
            if user.block == composite.block and user not in late and user.is_before_in_block(composite):
                late[user] = None
                frontier += list(user.results)
    after = composite
    for op in in_order(late):
        op.move_after(after)
        after = op
