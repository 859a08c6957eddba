"""Many random programs in one module: traced, raised, expanded, lowered and judged together.

A module a program would spend its time in the compiler; forty in one share tracing, passes and three compilations. The
programs have no argument in common, so a pass sees each alone.

Raising must change nothing: the expanded module is compared with the prepared one as a graph of operations, result by
result, which is more than equal bits on some inputs and needs no run. Lowering must be sound on every input set, with
the original in float64 as the judge (`certify`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxlib.mlir import ir

import zenith_mlir as zenith
from attention_fuzz.inputs import SETS, Array, draw
from attention_fuzz.source import Program
from zenith_mlir.certify import Case
from zenith_mlir.certify.pair import Trio, narrowest_ulp
from zenith_mlir.ir.executable import ExecutableError, compile_module
from zenith_mlir.ir.float64 import to_float64
from zenith_mlir.ir.symbols import functions
from zenith_mlir.target import Target

LOWERING = "lower-kernels{min-seq=0}"
# Programs run a few times each: making their machine code better, or each fusion by an emitter of its own, costs more
# than it gives (measured with jaxlib 0.10: six times as much). XLA's algebraic simplifier has to stay: without it
# XLA:CPU computes wrong numbers.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


@functools.cache
def quick_options() -> dict[str, Any]:
    """Those of `QUICK` that this jaxlib has."""
    return {name: value for name, value in QUICK.items() if _is_option(name, value)}


def _is_option(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


@dataclass
class Verdict:
    """What became of one program. `changed` says that raising changed it, `unsound` holds what the judge has against
    lowering it.
    """

    program: Program
    raised: int = 0
    lowered: int = 0
    missed: list[str] = field(default_factory=list)
    declined: list[str] = field(default_factory=list)
    changed: bool = False
    unsound: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return self.changed or bool(self.unsound)


def check_batch(programs: Sequence[Program], seed: int = 0, sets: Sequence[str] = SETS) -> list[Verdict]:
    """A verdict for each program. `seed` is of the inputs: a program's do not depend on the others."""
    try:
        return _check(programs, seed, sets)
    except (jax.errors.JaxRuntimeError, ExecutableError) as error:
        # XLA's algebraic simplifier makes products that the verifier or the runtime refuses of some programs, of some
        # only beside others.
        if len(programs) == 1:
            return [Verdict(programs[0], declined=[f"XLA: {error}"])]
        half = len(programs) // 2
        return check_batch(programs[:half], seed, sets) + check_batch(programs[half:], seed, sets)


def _check(programs: Sequence[Program], seed: int, sets: Sequence[str]) -> list[Verdict]:
    verdicts = [Verdict(program) for program in programs]
    traced, owners = _trace(programs)
    prepared = traced.run("prepare", target="cpu")
    raised = prepared.run("raise-attention", target="cpu")
    _compare(prepared, raised.run("expand-composites", target="cpu"), owners, verdicts)
    lowered = raised.run(LOWERING, target="cpu")
    _read_remarks(lowered, verdicts)
    wanted = {number for number, verdict in enumerate(verdicts) if verdict.lowered}
    results = [i for i, owner in enumerate(owners) if owner in wanted]
    if results:
        pair = _restricted(traced, results), _restricted(lowered, results)
        _judge(*pair, [owners[i] for i in results], verdicts, seed, sets)
    return verdicts


def _trace(programs: Sequence[Program]) -> tuple[zenith.Module, list[int]]:
    """All programs as one module, and for each of its results the number of its program."""
    compiled = [program.function(f"<program {number}>") for number, program in enumerate(programs)]
    arguments = [
        [jax.ShapeDtypeStruct(argument.shape, argument.dtype) for argument in program.arguments] for program in programs
    ]

    def batch(arguments: list[list[Any]]) -> list[Any]:
        return [function(*own) for function, own in zip(compiled, arguments, strict=True)]

    shapes = jax.eval_shape(batch, arguments)
    owners = [number for number, shape in enumerate(shapes) for _ in jax.tree.leaves(shape)]
    return zenith.trace(batch, arguments), owners


def _read_remarks(module: zenith.Module, verdicts: list[Verdict]) -> None:
    for remark in module.remarks:
        found = re.search(r"<program (\d+)>", remark.file)
        assert found is not None, remark.text()
        verdict = verdicts[int(found[1])]
        if remark.pass_name == "raise-attention":
            verdict.raised += remark.kind == "passed"
            verdict.missed += [remark.reason] if remark.kind == "missed" else []
        else:
            verdict.lowered += remark.kind == "passed"
            verdict.declined += [remark.reason] if remark.kind == "missed" else []


# ---- Raising changes nothing ----


def _compare(prepared: zenith.Module, expanded: zenith.Module, owners: list[int], verdicts: list[Verdict]) -> None:
    for owner, one, other in zip(owners, _fingerprints(prepared), _fingerprints(expanded), strict=True):
        verdicts[owner].changed |= one != other


def _fingerprints(module: zenith.Module) -> list[int]:
    """A number for each result of main: equal for results that the same operations compute from the same arguments."""
    with module.context:
        return _of_block(functions(module.operation)["main"].regions[0].blocks[0], {})


def _of_block(block: ir.Block, known: dict[ir.Value, int]) -> list[int]:
    """A number for each value that the block returns; `known` has one for each value defined outside of it."""
    for number, argument in enumerate(block.arguments):
        known[argument] = hash(("argument", number, str(argument.type)))
    for view in block.operations:
        op = view.operation
        inner = tuple(number for region in op.regions for block in region.blocks for number in _of_block(block, known))
        attributes = tuple((name, str(op.attributes[name])) for name in sorted(op.attributes))
        key = hash((op.name, attributes, inner, tuple(known[operand] for operand in op.operands)))
        known.update((result, hash((key, i, str(result.type)))) for i, result in enumerate(op.results))
    return [known[value] for value in list(block.operations)[-1].operands]


# ---- Lowering is sound ----


def _restricted(module: zenith.Module, results: Sequence[int]) -> zenith.Module:
    """`module` with some of main's results only; what the others need is dead."""
    out = module.clone()
    with out.context, ir.Location.unknown():
        main = functions(out.operation)["main"]
        block = main.regions[0].blocks[0]
        old = list(block.operations)[-1].operation
        kept = [old.operands[i] for i in results]
        with ir.InsertionPoint(old):
            ir.Operation.create("func.return", operands=kept)
        old.erase()
        inputs = [argument.type for argument in block.arguments]
        main.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get(inputs, [v.type for v in kept]))
        if "res_attrs" in main.attributes:
            del main.attributes["res_attrs"]
        _drop_dead(block)
    return out


def _drop_dead(block: ir.Block) -> None:
    for view in reversed(list(block.operations)[:-1]):
        op = view.operation
        if not any(True for result in op.results for _ in result.uses):
            op.erase()


def _judge(
    original: zenith.Module,
    lowered: zenith.Module,
    owners: Sequence[int],
    verdicts: list[Verdict],
    seed: int,
    sets: Sequence[str],
) -> None:
    arrays = {name: [x for verdict in verdicts for x in drawn(verdict.program, name, seed)] for name in sets}
    for case in _cases(original, lowered, arrays):
        if not case.sound:
            verdicts[owners[case.result]].unsound.append(f"{case.name}: {case.reason}")


def _cases(original: zenith.Module, lowered: zenith.Module, arrays: Mapping[str, Sequence[Array]]) -> list[Case]:
    cpu = Target.parse("cpu")
    programs = (original, lowered, to_float64(original))
    trio = Trio(*(compile_module(m, cpu, compiler_options=quick_options()) for m in programs), narrowest_ulp(original))
    return [case for name, own in arrays.items() for case in trio.judge(name, own)]


# XLA:CPU takes minimum(NaN, 1) for 1 in some fusions and for NaN, which the specification asks for, in others.
_BOUNDED = ("clip", "maximum", "minimum")


def drawn(program: Program, name: str, seed: int) -> Iterator[Array]:
    """The arguments of `program` in the input set `name`."""
    if name == "special" and program.choices["cap"] in _BOUNDED:
        name = "ordinary"
    for number, argument in enumerate(program.arguments):
        yield draw(argument, name, np.random.default_rng([seed, SETS.index(name), number]))
