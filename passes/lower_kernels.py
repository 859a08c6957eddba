"""lower-kernels: each zenith.* composite becomes the implementation that its target has, or its original code again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import numpy_dtype
from zenith_mlir.context import PassContext
from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.dialects.implementation import Implementation, Op, Refusal, Request, TensorSpec
from zenith_mlir.dialects.table import OPS
from zenith_mlir.ir.composites import (
    composite_attributes,
    composite_name,
    expand,
    gradients_with_residuals,
    zenith_composites,
)
from zenith_mlir.ir.facts import element_type, enclosing, shape
from zenith_mlir.ir.splice import splice_function
from zenith_mlir.ir.symbols import drop_unused_private_functions
from zenith_mlir.kernels.cpu.costs import refuse as refuse_costly
from zenith_mlir.module import Module
from zenith_mlir.registry import Pass, option, register
from zenith_mlir.target import Target

Choice = tuple[Implementation, Request] | Refusal


@register("lower-kernels")
@dataclass(frozen=True)
class LowerKernels(Pass):
    """Replace zenith.* composites by the kernel calls of the target.

    The decomposition is inlined where no kernel fits or pays. An implementation is a JAX function: it is traced for the
    target and spliced in. One remark a composite says what was chosen or why nothing was. With `--target=none`
    composites stay as they are.
    """

    min_seq: int | None = option(
        None, "leave attention whose longer sequence is shorter than this to XLA and fuse the rest, whatever it costs"
    )
    cost_model: bool = option(True, "leave what a kernel would make slower to XLA")

    def run(self, module: Module, ctx: PassContext) -> None:
        if ctx.target.platform == "none":
            return
        with module.context:
            composites = zenith_composites(module.operation)
            choices = [self._choose(composite, ctx) for composite in composites]
            refused = []
            for composite, choice in zip(composites, _agreed(composites, choices), strict=True):
                if isinstance(choice, Refusal):
                    _decline(composite, choice, ctx)
                    refused.append(composite)
                else:
                    _lower(composite, *choice, ctx)
            expand(refused, module.operation)
            drop_unused_private_functions(module.operation)

    def _choose(self, composite: ir.Operation, ctx: PassContext) -> Choice:
        """The first implementation that takes the composite, or why none does."""
        asked = request_of(composite, ctx.target, self.min_seq)
        if isinstance(asked, Refusal):
            return asked
        op, request = asked
        here = [row for row in op.implementations if row.platform == ctx.target.platform]
        if not here:
            return Refusal(f"there is no kernel for {ctx.target.platform}")
        refusals = []
        for row in here:
            refusal = row.refuse_under(ctx.numerics) or row.refuse(request) or self._weigh(op.name, row, request)
            if refusal is None:
                return row, request
            refusals.append(refusal)
        return refusals[0]

    def _weigh(self, op: str, implementation: Implementation, request: Request) -> Refusal | None:
        work = implementation.work(request) if self.cost_model and implementation.work else None
        return None if work is None else refuse_costly(op, work, request.target)


def request_of(composite: ir.Operation, target: Target, min_seq: int | None = None) -> tuple[Op, Request] | Refusal:
    """The op that `composite` is, and what its implementations are asked for; why they cannot be asked."""
    op = OPS.get(composite_name(composite))
    if op is None:
        return Refusal("this version knows no such op")
    refusal = _refuse_sharded(composite)
    if refusal is not None:
        return refusal
    operands, results = _tensor_specs(composite.operands), _tensor_specs(composite.results)
    if operands is None or results is None:
        return Refusal("an operand has a dynamic shape or a type that no kernel reads")
    spec = op.read(from_attribute(composite_attributes(composite)))
    return op, Request(spec, operands, results, target, min_seq)


def _agreed(composites: list[ir.Operation], choices: list[Choice]) -> list[Choice]:
    """An op that keeps residuals for another is lowered with it or not at all: alone, both would compute the same."""
    agreed = dict(zip(composites, choices, strict=True))
    for composite in composites:
        for gradient in gradients_with_residuals(composite):
            _agree(agreed, composite, gradient, "its gradient")
            _agree(agreed, gradient, composite, "what it differentiates")
    return list(agreed.values())


def _agree(agreed: dict[ir.Operation, Choice], mine: ir.Operation, theirs: ir.Operation, whose: str) -> None:
    refusal = agreed[theirs]
    if isinstance(refusal, Refusal) and not isinstance(agreed[mine], Refusal):
        agreed[mine] = Refusal(f"{whose} is left to XLA: {refusal.reason}", refusal.suggest)


def _decline(composite: ir.Operation, refusal: Refusal, ctx: PassContext) -> None:
    ctx.missed(composite, composite_name(composite), refusal.reason, refusal.suggest)
    ctx.count("inlined again")


def _lower(composite: ir.Operation, implementation: Implementation, request: Request, ctx: PassContext) -> None:
    name = composite_name(composite)
    ctx.passed(composite, name, implementation=implementation.name)
    ctx.count(f"lowered to {implementation.name}")
    key = (implementation.name, str(composite.attributes["composite_attributes"]), request.operands, request.results)
    splice_function(composite, key, implementation.build(request), request.operands, ctx.target.platform)


def _refuse_sharded(composite: ir.Operation) -> Refusal | None:
    """A kernel call on a sharded operand makes XLA gather it whole on every device; inside shard_map the operands are
    local.
    """
    root = enclosing(composite, "builtin.module")
    assert root is not None
    name = "mhlo.num_partitions"
    devices = ir.IntegerAttr(root.attributes[name]).value if name in root.attributes else 1
    if devices == 1 or enclosing(composite, "sdy.manual_computation") is not None:
        return None
    return Refusal(
        f"the program is partitioned over {devices} devices", "call it inside jax.shard_map to fuse it per device"
    )


def _tensor_specs(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...] | None:
    specs = [_tensor_spec(value) for value in values]
    known = tuple(spec for spec in specs if spec is not None)
    return known if len(known) == len(specs) else None


def _tensor_spec(value: ir.Value) -> TensorSpec | None:
    if not (isinstance(value.type, ir.RankedTensorType) and value.type.has_static_shape):
        return None
    dtype = numpy_dtype(element_type(value))
    return None if dtype is None else TensorSpec(shape(value), dtype)
