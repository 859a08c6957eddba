"""An activation in a program: what is replaced by one composite, and by a second one for its gradient.

The activation is that of `x` where a value of the cone of x (cone.py) is its function at all points. What multiplies it
may be the other half of a gate; what multiplies its derivative is the cotangent (products.py). Which value plays which
role is told by comparing numbers, so the order in which a program, or its differentiation, multiplies does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cmp_to_key
from typing import Any

from jaxlib.mlir import ir

from zenith_mlir.dialects import gelu, silu, swiglu
from zenith_mlir.dialects.gelu import GeluSpec
from zenith_mlir.dialects.silu import SiluSpec
from zenith_mlir.dialects.swiglu import SwigluSpec
from zenith_mlir.ir.cones import cone as cone_of
from zenith_mlir.ir.facts import defined_by, element_type, float_width, is_float_convert, producer, users
from zenith_mlir.match.activation.cone import SCALES, Cone, constant, origins
from zenith_mlir.match.activation.known import Activation, recognise
from zenith_mlir.match.activation.operands import Gate, biased, gradient_of_halves, halves_of, is_tensor
from zenith_mlir.match.activation.products import Product, linear_part, partners, products, readings

Spec = GeluSpec | SiluSpec | SwigluSpec


@dataclass(frozen=True)
class Piece:
    """What becomes one composite: `ops` compute `results` from `operands` and constants."""

    ops: list[ir.Operation]
    operands: list[ir.Value]
    results: list[ir.Value]


@dataclass(frozen=True)
class Site:
    """An activation (absent where a program only has its gradient) and its gradient, if there is one."""

    name: str
    spec: Spec
    forward: Piece | None
    gradient: Piece | None

    @property
    def pieces(self) -> list[Piece]:
        return [piece for piece in (self.forward, self.gradient) if piece is not None]

    @property
    def ops(self) -> set[ir.Operation]:
        return {op for piece in self.pieces for op in piece.ops}


@dataclass(frozen=True)
class Options:
    """`matmul`: sums and gates behind products of 16-bit floats belong to zenith.matmul."""

    matmul: bool = False


def match_site(seed: ir.Operation, options: Options) -> Site | None:
    """The activation that the exponential, or a function made of it, `seed` is part of."""
    for x in origins(seed.operands[0], seed.block):
        cone = Cone.of(x, seed.block)
        reader = _Reader(cone, x)
        if reader.activation is not None:
            outer = _narrowest(x)
            return (reader if outer == x else _Reader(Cone.of(outer, seed.block), outer)).site(options)
    return None


def _narrowest(x: ir.Value) -> ir.Value:
    """Of what `x` is converted from the value of the fewest bits, the first of these."""
    best = x
    while (op := defined_by(x, "stablehlo.convert")) is not None and is_float_convert(op):
        x = op.operands[0]
        if _width(x) <= _width(best):
            best = x
    return best


def _width(value: ir.Value) -> int:
    return float_width(element_type(value))


class _Reader:
    """What one tensor's cone is read as."""

    def __init__(self, cone: Cone, x: ir.Value) -> None:
        self._cone, self._x = cone, x
        self.narrow = any(_width(value) == 16 for value in cone.samples)
        self._values = [(value, known) for value, s in cone.deep_values() if (known := self._recognise(s)) is not None]
        self._partners = partners(cone)
        self.activation = self._values[0][1] if self._values else None
        self._products: list[Product] = []
        for partner in self._partners:
            found = products(cone, partner, self.activation, self.narrow)
            if self.activation is None and found:
                self.activation = found[0].activation
            self._products += found

    def _recognise(self, sample: Any) -> Activation | None:
        return recognise(sample.at, sample.coarse if self.narrow else 0.0)

    def site(self, options: Options) -> Site | None:
        """The first reading that leaves nothing of the activation's inside to others, else the last."""
        readings = [*self._gated(options), *self._plain(options)]
        clean = [site for site in readings if not self._escaping(site)]
        if clean:
            return clean[0]
        return None if not readings else replace(readings[-1], spec=replace(readings[-1].spec, escapes=True))

    def _escaping(self, site: Site) -> bool:
        """Whether something beside the site uses what follows from an exponential in it."""
        results = {value for piece in site.pieces for value in piece.results}
        ops = site.ops
        for value, _ in self._cone.deep_values():
            if value not in results and any(user not in ops and _is_alive(user) for user in users(value)):
                return True
        return False

    def _plain(self, options: Options) -> list[Site]:
        assert self.activation is not None
        gradients = [p for p in self._products if p.derivative]
        gradient = None
        if gradients:
            first = gradients[0]
            gradient = self._piece([self._x], first.operand, [_settled(first.value)])
        forward = self._piece([self._x], None, [_settled(self._values[0][0])]) if self._values else None
        forward = _used_outside(forward, gradient)
        if forward is None and gradient is None:
            return []
        name, spec = _plain_spec(self.activation)
        return [self._with_bias(Site(name, spec, forward, gradient), options)]

    def _piece(self, operands: list[ir.Value], cotangent: ir.Value | None, results: list[ir.Value]) -> Piece | None:
        given = operands if cotangent is None else [*operands, cotangent]
        ops = _ops(results, given, self._cone.block)
        return None if ops is None else Piece(ops, given, results)

    def _with_bias(self, site: Site, options: Options) -> Site:
        """With a bias that is added to x for this activation alone as an operand."""
        gate = biased(self._x, options.matmul)
        if gate is None or not set(users(self._x)) <= site.ops:
            return site
        return self._rebuilt(site, replace(site.spec, bias=True), {self._x: gate})

    def _rebuilt(self, site: Site, spec: Spec, gates: dict[ir.Value, Gate]) -> Site:
        """The site with the sums in `gates` taken in: first all tensors, then all biases."""

        def given(operands: Sequence[ir.Value]) -> list[ir.Value]:
            inner = [value for value in operands if value in gates]
            rest = [value for value in operands if value not in gates]
            return [*(gates[value].tensor for value in inner), *(gates[value].bias for value in inner), *rest]

        pieces = []
        for piece in (site.forward, site.gradient):
            operands = [] if piece is None else given(piece.operands)
            ops = None if piece is None else _ops(piece.results, operands, self._cone.block)
            if piece is not None and ops is None:
                return site
            pieces.append(None if piece is None or ops is None else Piece(ops, operands, piece.results))
        return Site(site.name, spec, *pieces)

    def _gated(self, options: Options) -> list[Site]:
        """The first product with another tensor is the gate's; a later one that of the cotangent, for the other half's
        gradient."""
        assert self.activation is not None
        values = [p for p in self._products if not p.derivative and is_tensor(p.operand, self._cone.dims)]
        values.sort(key=cmp_to_key(lambda a, b: -1 if producer(a.value).is_before_in_block(producer(b.value)) else 1))
        if not values:
            return []
        first = values[0]
        up, result = first.operand, _settled(first.value)
        forward = self._piece([self._x, up], None, [result])
        if forward is None:
            return []
        spec = SwigluSpec(self.activation.kind, self.activation.slope)
        sites = []
        for later in values[1:]:
            gradient = None if later.operand == up else self._gated_gradient(up, later)
            if gradient is not None:
                sites.append(Site(swiglu.NAME, spec, _used_outside(forward, gradient), gradient))
                break
        if options.matmul and self._is_epilogue(forward):
            return []
        sites.append(Site(swiglu.NAME, spec, forward, None))
        return [self._with_halves(site, up, options) for site in sites]

    def _is_epilogue(self, forward: Piece) -> bool:
        """Whether a product of 16-bit floats can take the activation and the product with `up` along."""
        return set(users(self._x)) <= set(forward.ops) and biased(self._x, matmul=False, of_matmul=True) is not None

    def _gated_gradient(self, up: ir.Value, later: Product) -> Piece | None:
        """d_gate = g up act'(gate) and d_up = g act(gate)."""
        cotangent = later.operand
        base = self._cone.extended(up, SCALES[:, None])
        both = base.extended(cotangent, SCALES[:, None, None])
        for value, sample in both.deep_values(base):
            at = linear_part(sample.at)
            if at is None or sample.at.ndim != 3:
                continue
            for derivative, factor, _ in readings(at, sample, self.activation, self.narrow):
                if derivative and abs(factor - 1) < 0.01:
                    results = [_settled(value), _settled(later.value)]
                    return self._piece([self._x, up], cotangent, results)
        return None

    def _with_halves(self, site: Site, up: ir.Value, options: Options) -> Site:
        halves = halves_of(self._x, up)
        if halves is None:
            return self._with_biases(site, up, options)
        source, order = halves
        gradient = site.gradient
        if gradient is not None:
            whole = gradient_of_halves(gradient.results, order)
            if whole is None:
                return self._with_biases(site, up, options)
            gradient = self._piece([source], gradient.operands[-1], [whole])
        forward = None if site.forward is None else self._piece([source], None, site.forward.results)
        spec = replace(site.spec, halves=order)
        inner = Site(site.name, spec, forward, gradient)
        gate = biased(source, options.matmul)
        if gate is None or not set(users(source)) <= inner.ops:
            return inner
        return self._rebuilt(inner, replace(spec, bias=True), {source: gate})

    def _with_biases(self, site: Site, up: ir.Value, options: Options) -> Site:
        """With both biases, if both halves have one that is added for this alone."""
        gates = {value: gate for value in (self._x, up) if (gate := biased(value, options.matmul)) is not None}
        if len(gates) < 2 or not all(set(users(value)) <= site.ops for value in gates):
            return site
        return self._rebuilt(site, replace(site.spec, bias=True), gates)


def _plain_spec(activation: Activation) -> tuple[str, Spec]:
    if activation.kind == "silu":
        return silu.NAME, SiluSpec(activation.slope)
    return gelu.NAME, GeluSpec("none" if activation.kind == "gelu" else "tanh")


def _settled(value: ir.Value) -> ir.Value:
    """What `value` is rounded to, where nothing else uses it."""
    while len(readers := users(value)) == 1 and is_float_convert(readers[0]):
        if _width(readers[0].results[0]) >= _width(value):
            break
        value = readers[0].results[0]
    return value


def _used_outside(forward: Piece | None, gradient: Piece | None) -> Piece | None:
    """The forward, unless only the gradient uses its result, which then computes it itself."""
    if forward is None or gradient is None:
        return forward
    used = {user for value in forward.results for user in users(value)}
    return forward if not used <= set(gradient.ops) else None


def _is_alive(op: ir.Operation) -> bool:
    return not op.results or bool(op.regions) or any(True for result in op.results for _ in result.uses)


def _ops(results: Sequence[ir.Value], operands: Iterable[ir.Value], block: ir.Block) -> list[ir.Operation] | None:
    """What computes `results` from `operands` and constants, producers first; None if they need anything else."""

    class Elsewhere(Exception):
        pass

    def enter(value: ir.Value, op: ir.Operation | None) -> bool:
        if op is not None and op.name == "stablehlo.constant":
            return False
        if op is None or (op.block != block and constant(value) is None):
            raise Elsewhere
        return True

    try:
        ops = cone_of(list(results), set(operands), enter)
    except Elsewhere:
        return None
    return ops if len(ops) < 300 else None
