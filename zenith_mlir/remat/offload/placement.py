"""Placements in StableHLO, spelled as JAX spells `save_and_offload_only_these_names`."""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op
from zenith_mlir.ir.symbols import functions

__all__ = ["DEVICE", "HOST", "is_on_host", "is_placement", "memory_of", "placed", "results_on_device", "tied"]

TARGET = "annotate_device_placement"
HOST = "pinned_host"
DEVICE = "device"
PLACEMENT = "_xla_buffer_placement"


def placed(value: ir.Value, memory: str) -> ir.Value:
    """`value` in the memory "pinned_host" or "device", at the current insertion point."""
    placement = ir.DictAttr.get({PLACEMENT: ir.StringAttr.get(memory)})
    attributes = {
        "api_version": ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 1),
        "backend_config": ir.StringAttr.get(""),
        "call_target_name": ir.StringAttr.get(TARGET),
        "called_computations": ir.ArrayAttr.get([]),
        "has_side_effect": ir.BoolAttr.get(True),
        "mhlo.frontend_attributes": placement,
    }
    (result,) = ir.Operation.create(
        "stablehlo.custom_call", results=[value.type], operands=[value], attributes=attributes
    ).results
    return result


def is_placement(op: ir.Operation) -> bool:
    return op.name == "stablehlo.custom_call" and ir.StringAttr(op.attributes["call_target_name"]).value == TARGET


def is_on_host(value: ir.Value) -> bool:
    """Whether a placement has put `value` on the host, seen through barriers."""
    op = defining_op(value)
    if op is not None and op.name == "stablehlo.optimization_barrier":
        return is_on_host(op.operands[ir.OpResult(value).result_number])
    return op is not None and is_placement(op) and memory_of(op) == HOST


def memory_of(placement: ir.Operation) -> str:
    """Where a placement puts its operand; empty if it does not say."""
    name = "mhlo.frontend_attributes"
    if name not in placement.attributes or PLACEMENT not in (attributes := ir.DictAttr(placement.attributes[name])):
        return ""
    return str(ir.StringAttr(attributes[PLACEMENT]).value)


def tied(values: Sequence[ir.Value], passing: Sequence[ir.Value]) -> list[ir.Value]:
    """`values`, then those `passing`, as they come out of an optimization_barrier together: nothing that uses one of
    the results runs before all that goes in is there. Users further down of what passes take what comes out.
    """
    operands = [*values, *passing]
    barrier = ir.Operation.create(
        "stablehlo.optimization_barrier", results=[v.type for v in operands], operands=operands
    )
    results: list[ir.Value] = list(barrier.results)
    for value, result in zip(passing, results[len(values) :], strict=True):
        for use in list(value.uses):
            if barrier.is_before_in_block(_in_block(use.owner.operation, barrier)):
                use.owner.operation.operands[use.operand_number] = result
    return results


def _in_block(op: ir.Operation, beside: ir.Operation) -> ir.Operation:
    """What stands around `op`, or itself, in the block of `beside`."""
    while op.block != beside.block:
        assert op.parent is not None, "the use of a value is below its block"
        op = op.parent.operation
    return op


def results_on_device(module: ir.Operation) -> None:
    """Say of the results of `main` that they are in device memory, as JAX does where a program has two memories."""
    main = functions(module)["main"]
    signature = ir.FunctionType(ir.TypeAttr(main.attributes["function_type"]).value)
    given: list[ir.Attribute | None] = [None] * len(signature.results)
    if "res_attrs" in main.attributes:
        given = list(ir.ArrayAttr(main.attributes["res_attrs"]))
    device = {"mhlo.memory_kind": ir.StringAttr.get(DEVICE)}
    main.attributes["res_attrs"] = ir.ArrayAttr.get([ir.DictAttr.get(device | _entries(a)) for a in given])


def _entries(attributes: ir.Attribute | None) -> dict[str, ir.Attribute]:
    if attributes is None:
        return {}
    dictionary = ir.DictAttr(attributes)
    named = [dictionary[i] for i in range(len(dictionary))]
    return {entry.name: entry.attr for entry in named}
