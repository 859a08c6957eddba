"""`zenith.precision.report`: what a precision policy costs each value of a program.

Three programs run on the same inputs. x̂ are the values of the program after the pipeline, which never sees that it is
watched: operations are marked before it and found by their marks behind it. x are the values of the program in float64.
The third, the shadow, is the float64 program in which each operation reads x̂ instead of what was computed before it, so
that it gives f(x̂_in), and with it what each operation adds itself. (PyTorch's numeric suite feeds an operation and its
shadow in the same way.)

The effect of an operation's own error on the results is found by adding it, and nothing else, to the float64 program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from zenith_mlir.certify.compare import random_inputs
from zenith_mlir.certify.judge import is_float_like
from zenith_mlir.context import Numerics
from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.executable import compile_module
from zenith_mlir.ir.facts import defining_op
from zenith_mlir.ir.location import source_frame
from zenith_mlir.ir.probes import Probe
from zenith_mlir.ir.signature import main_function
from zenith_mlir.module import Module, trace
from zenith_mlir.pipeline import Pipeline
from zenith_mlir.precision.deny import pattern_of
from zenith_mlir.precision.precision_report import Line, PrecisionReport, Row
from zenith_mlir.precision.trial import Arrays, Judge, Trial
from zenith_mlir.precision.value_errors import ValueErrors, distance, measure, own_error
from zenith_mlir.target import Target

__all__ = ["CHUNK_BYTES", "report"]

CHUNK_BYTES = 1 << 28

# What a millionth of the errors of a 16-bit program moves by half of itself is zero in exact arithmetic.
_SLIGHT = 1e-6

Array = NDArray[Any]
Progress = Callable[[str], None]


def report(
    program: Module | Callable[..., Any],
    *args: Any,
    pipeline: str | Pipeline = "cast-precision{compute=bf16}",
    seed: int = 0,
    target: str | Target | None = None,
    numerics: Numerics = "sound",
    effects: bool = True,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress = lambda doing: None,
) -> PrecisionReport:
    """The error of each float value of `program` after `pipeline`, against float64.

    Args:
      program: a module, or a JAX function of `args`, which is traced.
      args: one array for each argument of the module's `main`, or the function's arguments (pytrees of arrays). Without
        any, or where they are `jax.ShapeDtypeStruct`, random numbers that suit their use are drawn from `seed`.
      pipeline: what shall be judged.
      target: where the program after the pipeline runs (None: JAX's default platform).
      effects: whether to measure what the errors of each line do to the results, one run in float64 a line; without
        them the largest own error of a line stands for its effect.
      chunk_bytes: values of about so many bytes in float64 are looked at in one go; each takes three compilations.
      progress: is told what is being done.

    Raises:
      ZenithError: the pipeline fails, a program does not compile, or the arrays do not fit `main`.
    """
    module, arrays = _module_and_arrays(program, args)
    module = module.run("inline-calls", target="none")
    name = "given"
    if arrays is None:
        progress("drawing inputs")
        name, arrays = random_inputs(module, seed, compile_module(module, target))
    parsed = Pipeline.parse(pipeline)
    progress(f"running {parsed}")
    trial = Trial.prepare(module, parsed, target, numerics, arrays)
    findings = _Findings()
    for i, chunk in enumerate(chunks := list(_chunks(trial.probes, chunk_bytes))):
        progress(f"running the program, part {i + 1} of {len(chunks)}")
        _look_at(trial, chunk, findings, effects)
    return PrecisionReport(
        pipeline=str(parsed),
        inputs=name,
        rows=_rows(findings),
        results=_results(trial, findings),
        lines=_lines(findings),
        lost=len(trial.probes) - len(findings.values),
        unseen=trial.unseen,
    )


def _module_and_arrays(
    program: Module | Callable[..., Any], args: Sequence[Any]
) -> tuple[Module, Sequence[Array] | None]:
    module = program if isinstance(program, Module) else trace(program, *args)
    leaves = jax.tree.leaves(args)
    if not leaves or any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return module, None
    if len(leaves) != len(module.input_specs):
        raise ZenithError(
            f"main takes {len(module.input_specs)} arrays, got {len(leaves)}; give one for each argument (a function "
            "that is jitted already drops arguments that it does not use: give the function itself)"
        )
    # A function's arguments are what JAX takes them for, a module's have to have the declared types.
    return module, [np.asarray(leaf if program is module else jax.numpy.asarray(leaf)) for leaf in leaves]


def _chunks(probes: Sequence[Probe], limit: int) -> Iterator[list[Probe]]:
    """`probes` in program order, in parts of `limit` bytes in float64 (or one probe, if that is larger)."""
    chunk: list[Probe] = []
    size = 0
    for probe in probes:
        if chunk and size + 8 * probe.count > limit:
            yield chunk
            chunk, size = [], 0
        chunk.append(probe)
        size += 8 * probe.count
    yield chunk


@dataclass
class _Findings:
    """What is known so far: dtype and errors of each value; x̂ and x of each result; effects by pattern."""

    values: dict[Probe, tuple[str, ValueErrors]] = field(default_factory=dict)
    results: list[tuple[Array, Array]] = field(default_factory=list)
    zeros: set[Probe] = field(default_factory=set)
    zero_results: set[int] = field(default_factory=set)
    effects: dict[str, float] = field(default_factory=dict)


def _look_at(trial: Trial, chunk: Sequence[Probe], findings: _Findings, effects: bool) -> None:
    """Measure the values of `chunk`."""
    read = trial.read_by(chunk)
    results, values = trial.run_rewritten(list(dict.fromkeys([*chunk, *read])))
    present = [probe for probe in chunk if probe in values]
    judge = trial.judge(present)
    exact_results, exact = judge.run({})
    shadows = trial.run_shadow(present, {probe: values[probe] for probe in read if probe in values})
    own = {}
    for probe in present:
        value, shadow = values.pop(probe), shadows.pop(probe)
        findings.values[probe] = value.dtype.name, measure(value, exact[probe], shadow)
        own[probe] = own_error(value, shadow)
    findings.results = list(zip(results, exact_results, strict=True))
    _find_zeros(judge, own, exact_results, exact, findings)
    if effects:
        _find_effects(judge, own, exact_results, findings)


def _find_zeros(judge: Judge, own: Arrays, exact_results: Sequence[Array], exact: Arrays, findings: _Findings) -> None:
    """Note which values and results have no digits even in float64: a slight change replaces them."""
    results, values = judge.run({probe: _SLIGHT * error for probe, error in own.items()})
    findings.zeros |= {probe for probe, value in values.items() if distance(value, exact[probe], exact[probe]) > 0.5}
    moved = _moves(results, exact_results)
    findings.zero_results |= {i for i, distance_moved in moved.items() if distance_moved > 0.5}


def _find_effects(judge: Judge, own: Arrays, exact_results: Sequence[Array], findings: _Findings) -> None:
    """Disturb the float64 program by the own errors of one line after the other."""
    by_line: dict[str, Arrays] = {}
    for probe, error in own.items():
        if error.any():
            by_line.setdefault(_pattern(probe), {})[probe] = error
    for pattern, errors in by_line.items():
        moved = _moves(judge.run(errors)[0], exact_results)
        effect = max((moved[i] for i in moved.keys() - findings.zero_results), default=0.0)
        # A line may be in several chunks; its errors there are as independent as those of different lines.
        findings.effects[pattern] = float(np.hypot(findings.effects.get(pattern, 0.0), effect))


def _moves(results: Sequence[Array], exact: Sequence[Array]) -> dict[int, float]:
    """By how much each result that is a float differs, relative to its size."""
    pairs = enumerate(zip(results, exact, strict=True))
    return {i: distance(a, b, b) for i, (a, b) in pairs if b.dtype == np.float64}


def _pattern(probe: Probe) -> str:
    return pattern_of(probe.name, source_frame(probe.location))


def _rows(findings: _Findings) -> tuple[Row, ...]:
    rows = [_row(probe, *found, probe in findings.zeros) for probe, found in findings.values.items()]
    return tuple(sorted(rows, key=lambda row: (row.zero, -row.error)))


def _row(probe: Probe, dtype: str, errors: ValueErrors, zero: bool) -> Row:
    frame = source_frame(probe.location)
    return Row(probe.name, frame.file, frame.line, dtype, probe.shape, probe.count, zero=zero, **asdict(errors))


def _results(trial: Trial, findings: _Findings) -> tuple[Row, ...]:
    with trial.original.context:
        terminator = list(main_function(trial.original.ir).regions[0].blocks[0].operations)[-1].operation
        makers = [defining_op(operand) for operand in terminator.operands]
        frames = [source_frame((op or terminator).location) for op in makers]
    rows = []
    for i, (found, exact) in enumerate(findings.results):
        if is_float_like(found.dtype) and exact.dtype == np.float64:
            errors = measure(found, exact, exact)
            numbers = {**asdict(errors), "own_error": 0.0, "own_overflow": 0}
            where = frames[i].file, frames[i].line, found.dtype.name, found.shape, found.size
            rows.append(Row(f"result {i}", *where, zero=i in findings.zero_results, **numbers))
    return tuple(rows)


def _lines(findings: _Findings) -> tuple[Line, ...]:
    groups: dict[str, list[Probe]] = {}
    for probe in findings.values:
        groups.setdefault(_pattern(probe), []).append(probe)
    lines = [_line(pattern, probes, findings) for pattern, probes in groups.items()]
    return tuple(sorted(lines, key=lambda line: (-line.overflow, -line.effect)))


def _line(pattern: str, probes: Sequence[Probe], findings: _Findings) -> Line:
    frame = source_frame(probes[0].location)
    errors = [findings.values[probe][1] for probe in probes]
    own = max(each.own_error for each in errors)
    return Line(
        pattern,
        ops=tuple(dict.fromkeys(probe.name for probe in probes)),
        file=frame.file,
        line=frame.line,
        effect=findings.effects.get(pattern, 0.0 if findings.effects else own),
        own_error=own,
        overflow=sum(each.own_overflow for each in errors),
    )
