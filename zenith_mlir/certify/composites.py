"""certify_composites: every zenith.* composite of a raised module against what lower-kernels makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from jaxlib.mlir import ir

from zenith_mlir.certify.certificate import Certificate
from zenith_mlir.certify.inputs import adversarial_inputs
from zenith_mlir.certify.pair import certify_pair
from zenith_mlir.certify.roles import argument_roles
from zenith_mlir.context import Numerics
from zenith_mlir.ir.composites import (
    composite_name,
    decomposition_name,
    gradients_with_residuals,
    zenith_composites,
)
from zenith_mlir.ir.facts import defining_op
from zenith_mlir.ir.outline import clone_op
from zenith_mlir.ir.symbols import drop_unused_private_functions, functions, unique_name
from zenith_mlir.target import Target

if TYPE_CHECKING:
    from zenith_mlir.module import Module

__all__ = ["certify_composites", "isolated_composites"]

# Whether a kernel pays at some size is not the question here.
LOWERING = "lower-kernels{min-seq=0 cost-model=false}"


def certify_composites(
    raised: Module, target: Target | None = None, numerics: Numerics = "sound", seed: int = 0
) -> list[Certificate]:
    """One certificate for each distinct `zenith.*` composite in `raised`, in program order.

    The composite, alone in a module, is the original: XLA runs its decomposition, which is the user's own
    code. The same module after `lower-kernels` is the rewritten program. Inputs are those of
    `adversarial_inputs`.

    Args:
      raised: a module before `lower-kernels`, e.g. `module.run(pipeline, target="none")`.
      target: what `lower-kernels` lowers for, and where both run (None: this machine).
      numerics: the policy, "exact", "sound" or "fast"; `lower-kernels` sees it too.
      seed: of the inputs.
    """
    target = target or Target.host()
    certificates = []
    for name, original in isolated_composites(raised):
        rewritten = original.run(LOWERING, target=target, numerics=numerics)
        certificate = certify_pair(
            original,
            rewritten,
            inputs=adversarial_inputs(argument_roles(original), seed),
            target=target,
            numerics=numerics,
            op=name,
        )
        certificates.append(replace(certificate, note=_what_lowering_said(rewritten)))
    return certificates


def _what_lowering_said(rewritten: Module) -> str:
    chosen = [str(r.args["implementation"]) for r in rewritten.remarks if "implementation" in r.args]
    declined = [f"left to XLA: {r.reason}" for r in rewritten.remarks if r.kind == "missed"]
    return ", ".join(chosen + declined)


def isolated_composites(raised: Module) -> Iterator[tuple[str, Module]]:
    """Each distinct `zenith.*` composite as (its name, a module whose `main` does nothing but call it).

    Two are the same if their attributes and decompositions are, as in the layers of one model. One that takes residuals
    of another comes with that other, which does not come alone: what a residual is, is between the two.
    """
    seen = set()
    composites = zenith_composites(raised.operation)
    for number, composite in enumerate(composites):
        if gradients_with_residuals(composite):
            continue
        alone = raised.clone()
        with alone.context:
            _leave_only(alone, number)
        key = _without_names(alone)
        if key not in seen:
            seen.add(key)
            yield composite_name(composite), alone


def _without_names(module: Module) -> str:
    """The text of `module` with decompositions numbered in order."""
    names = [decomposition_name(op) for op in zenith_composites(module.operation)]
    text = module.text()
    for i, name in enumerate(names):
        text = re.sub(rf"@{name}\b", f"@decomposition{i}", text)
    return text


def _unit(composite: ir.Operation) -> list[ir.Operation]:
    """The composite, after those whose residuals it takes."""
    producers = dict.fromkeys(op for value in composite.operands if (op := defining_op(value)) is not None)
    composites = (op for op in producers if op.name == "stablehlo.composite")
    return [*(op for op in composites if composite in gradients_with_residuals(op)), composite]


def _leave_only(module: Module, number: int) -> None:
    """Make a new `main` of the composite with that number, and what it takes residuals of, and drop all else."""
    composite = zenith_composites(module.operation)[number]
    unit = _unit(composite)
    made = {value for op in unit for value in op.results}
    taken = list(dict.fromkeys(value for op in unit for value in op.operands if value not in made))
    given = [unit[0].results[0], *composite.results] if len(unit) > 1 else list(composite.results)
    old = functions(module.operation)["main"]
    old.attributes["sym_name"] = ir.StringAttr.get(unique_name(module.operation, "main_before"))
    old.attributes["sym_visibility"] = ir.StringAttr.get("private")
    inputs, results = [v.type for v in taken], [v.type for v in given]
    with ir.InsertionPoint(module.body), composite.location:
        main = ir.Operation.create(
            "func.func",
            regions=1,
            attributes={
                "sym_name": ir.StringAttr.get("main"),
                "sym_visibility": ir.StringAttr.get("public"),
                "function_type": ir.TypeAttr.get(ir.FunctionType.get(inputs, results)),
            },
        )
        block = main.regions[0].blocks.append(*inputs, arg_locs=[composite.location] * len(inputs))
    with ir.InsertionPoint(block), composite.location:
        mapping = dict(zip(taken, block.arguments, strict=True))
        for op in unit:
            clone_op(op, mapping)
        ir.Operation.create("func.return", operands=[mapping[value] for value in given])
    drop_unused_private_functions(module.operation)
