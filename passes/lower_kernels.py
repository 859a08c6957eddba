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
from zenith_mlir.ir.composites import composite_attributes, composite_name, expand, zenith_composites
from zenith_mlir.ir.facts import element_type, enclosing, shape
from zenith_mlir.ir.splice import splice_function
from zenith_mlir.ir.symbols import drop_unused_private_functions
from zenith_mlir.module import Module
from zenith_mlir.registry import Pass, option, register


@register("lower-kernels")
@dataclass(frozen=True)
class LowerKernels(Pass):
    """Replace zenith.* composites by the kernel calls of the target.

    The decomposition is inlined where no kernel fits or pays. An implementation is a JAX function: it is traced for the
    target and spliced in. One remark a composite says what was chosen or why nothing was. With `--target=none`
    composites stay as they are.
    """

    min_seq: int = option(32, "leave attention whose longer sequence is shorter than this to XLA")

    def run(self, module: Module, ctx: PassContext) -> None:
        if ctx.target.platform == "none":
            return
        with module.context:
            for composite in zenith_composites(module.operation):
                _lower(composite, module, ctx, self.min_seq)
            drop_unused_private_functions(module.operation)


def _lower(composite: ir.Operation, module: Module, ctx: PassContext, min_seq: int) -> None:
    name = composite_name(composite)
    op = OPS.get(name)
    chosen = Refusal("this version knows no such op") if op is None else _choose(op, composite, ctx, min_seq)
    if isinstance(chosen, Refusal):
        ctx.missed(composite, name, chosen.reason, chosen.suggest)
        ctx.count("inlined again")
        expand(composite, module.operation)
        return
    implementation, request = chosen
    ctx.passed(composite, name, implementation=implementation.name)
    ctx.count(f"lowered to {implementation.name}")
    key = (implementation.name, str(composite.attributes["composite_attributes"]), request.operands, request.results)
    splice_function(composite, key, implementation.build(request), request.operands, ctx.target.platform)


def _choose(
    op: Op, composite: ir.Operation, ctx: PassContext, min_seq: int
) -> tuple[Implementation, Request] | Refusal:
    """The first implementation that takes the composite, or why none does."""
    refusal = _refuse_sharded(composite)
    if refusal is not None:
        return refusal
    operands, results = _tensor_specs(composite.operands), _tensor_specs(composite.results)
    if operands is None or results is None:
        return Refusal("an operand has a dynamic shape or a type that no kernel reads")
    spec = op.read(from_attribute(composite_attributes(composite)))
    request = Request(spec, operands, results, ctx.target, min_seq)
    here = [row for row in op.implementations if row.platform == ctx.target.platform]
    if not here:
        return Refusal(f"there is no kernel for {ctx.target.platform}")
    refusals = []
    for implementation in here:
        refusal = implementation.refuse(request)
        if refusal is None:
            return implementation, request
        refusals.append(refusal)
    return refusals[0]


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
