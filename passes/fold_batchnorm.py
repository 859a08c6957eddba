"""fold-batchnorm: a scale and a shift a channel after a convolution go into its weights and a bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxlib.mlir import ir

from zenith_mlir.canonical import build
from zenith_mlir.context import PassContext
from zenith_mlir.ir.composites import walk_program
from zenith_mlir.ir.facts import element_type, float_width, int_list, shape
from zenith_mlir.ir.outline import erase_if_unused
from zenith_mlir.match.batchnorm import PRODUCTS, Step, Tail, independent, match_tail
from zenith_mlir.match.channels import channel_vector
from zenith_mlir.module import Module
from zenith_mlir.passes.simplify import Simplify
from zenith_mlir.registry import Pass, register


@register("fold-batchnorm")
@dataclass(frozen=True)
class FoldBatchnorm(Pass):
    """Fold what scales and shifts the channels of a convolution, or of a product with weights, into them:
    conv(x, w) A + B becomes conv(x, w A) + B.

    That is BatchNorm at inference, in any spelling, and with it a bias of the convolution. A and B are computed in the
    program, as vectors, so weights and statistics may be arguments. BatchNorm in training, whose statistics are those
    of the convolution itself, stays. Rounds differently, so `numerics=exact` allows none: products are scaled before
    they are summed, and a shift that nearly cancels them is subtracted once, scaled.
    """

    def run(self, module: Module, ctx: PassContext) -> None:
        if ctx.numerics == "exact":
            return
        folded = 0
        for product in walk_program(module.operation, *PRODUCTS):
            tail = match_tail(product)
            if tail is None:
                continue
            if tail.shared is None:
                _fold(tail, ctx)
                folded += 1
            elif product.name == "stablehlo.convolution" and independent(tail.steps, product):
                reason = "something else uses what is computed before the channels are scaled and shifted"
                ctx.missed(tail.shared, product.name, reason)
        if folded:
            Simplify().run(module, ctx)


def _fold(tail: Tail, ctx: PassContext) -> None:
    last, product = tail.steps[-1].op, tail.product
    with ir.InsertionPoint(last), last.location:
        affine = _affine(tail)
        folded = _scaled(tail, affine.scale)
    with ir.InsertionPoint(last), product.location:
        value = build.rebuilt(product, [product.operands[0], folded])
    with ir.InsertionPoint(last), last.location:
        for step in tail.steps:
            value = _laid_out(step, value)
        shift = build.convert(affine.shift, element_type(tail.result))
        value = build.elementwise("add", value, build.broadcast_in_dim(shift, [tail.steps[-1].dim], tail.result.type))
    channels = shape(tail.result)[tail.steps[-1].dim]
    ctx.passed(product, product.name, channels=channels, operations=len(tail.steps))
    ctx.count("scales folded")
    tail.result.replace_all_uses_with(value)
    for step in reversed(tail.steps):
        erase_if_unused(step.op)
    erase_if_unused(product)


@dataclass(frozen=True)
class _Affine:
    """y scale + shift, as vectors of one number a channel."""

    scale: ir.Value
    shift: ir.Value

    def plus(self, value: ir.Value) -> _Affine:
        return replace(self, shift=build.elementwise("add", self.shift, value))

    def times(self, value: ir.Value) -> _Affine:
        return _Affine(*(build.elementwise("multiply", x, value) for x in (self.scale, self.shift)))

    def over(self, value: ir.Value) -> _Affine:
        return _Affine(*(build.elementwise("divide", x, value) for x in (self.scale, self.shift)))

    def negated(self) -> _Affine:
        return _Affine(*(build.elementwise("negate", x) for x in (self.scale, self.shift)))


def _affine(tail: Tail) -> _Affine:
    """What the steps make of a channel, in a type of at least 32 bits."""
    types = [element_type(value) for step in tail.steps for value in (*step.op.operands, *step.op.results)]
    element = max([*types, ir.F32Type.get()], key=float_width)
    type_ = build.tensor([shape(tail.product.results[0])[tail.dim]], element)
    affine = _Affine(build.splat_constant(type_, 1), build.splat_constant(type_, -0.0))
    for step in tail.steps:
        apply = _APPLY.get(step.op.name)
        if apply is not None:
            affine = apply(affine, step, lambda value, dim: build.convert(channel_vector(value, dim), element))
    return affine


Vector = Callable[[ir.Value, int], ir.Value]


def _add(affine: _Affine, step: Step, vector: Vector) -> _Affine:
    return affine.plus(_operand(step, vector))


def _subtract(affine: _Affine, step: Step, vector: Vector) -> _Affine:
    if step.first:
        return affine.plus(build.elementwise("negate", _operand(step, vector)))
    return affine.negated().plus(_operand(step, vector))


def _multiply(affine: _Affine, step: Step, vector: Vector) -> _Affine:
    return affine.times(_operand(step, vector))


def _divide(affine: _Affine, step: Step, vector: Vector) -> _Affine:
    return affine.over(_operand(step, vector))


def _negate(affine: _Affine, step: Step, vector: Vector) -> _Affine:
    return affine.negated()


def _batch_norm(affine: _Affine, step: Step, vector: Vector) -> _Affine:
    scale, offset, mean, variance = (vector(value, 0) for value in list(step.op.operands)[1:])
    epsilon = build.splat_constant(variance.type, ir.FloatAttr(step.op.attributes["epsilon"]).value)
    root = build.elementwise("rsqrt", build.elementwise("add", variance, epsilon))
    centred = affine.plus(build.elementwise("negate", mean))
    return centred.times(build.elementwise("multiply", scale, root)).plus(offset)


def _operand(step: Step, vector: Vector) -> ir.Value:
    assert step.value is not None
    return vector(step.value, step.dim)


_APPLY: dict[str, Callable[[_Affine, Step, Vector], _Affine]] = {
    "stablehlo.add": _add,
    "stablehlo.subtract": _subtract,
    "stablehlo.multiply": _multiply,
    "stablehlo.divide": _divide,
    "stablehlo.negate": _negate,
    "stablehlo.batch_norm_inference": _batch_norm,
}


def _scaled(tail: Tail, scale: ir.Value) -> ir.Value:
    """The weights, each channel multiplied by its number and rounded once."""
    weights = tail.product.operands[tail.weights]
    wide = build.convert(weights, element_type(scale))
    spread = build.broadcast_in_dim(scale, [tail.out_dim], wide.type)
    return build.convert(build.elementwise("multiply", wide, spread), element_type(weights))


def _laid_out(step: Step, value: ir.Value) -> ir.Value:
    """What the step does to the layout and type of the tail."""
    if step.op.name == "stablehlo.transpose":
        return build.transpose(value, int_list(step.op, "permutation"))
    return build.convert(value, element_type(step.op.results[0]))
