"""Running a program so that JAX, when it differentiates, keeps what was decided to be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.source_info_util import register_exclusion

from zenith_mlir.ir.jaxprs import scan_arguments
from zenith_mlir.remat.lines import Line, Program
from zenith_mlir.remat.naming import run_named
from zenith_mlir.remat.policy import Policy
from zenith_mlir.remat.segments import Segment, Segments

__all__ = ["run_segments"]

# Frames of this file are not the user's: JAX leaves them out of source locations.
register_exclusion(__file__)


def run_segments(
    program: Program, plan: Segments, arguments: Sequence[Any], *, prevent_cse: bool = True, scope: str = "zenith"
) -> list[Any]:
    """The outputs of `program`, run segment by segment, each that computes something again under jax.checkpoint.

    What is kept in these is named `scope/operation.line.result`.
    """
    return _Runner(program, plan, prevent_cse, scope).run(arguments)


class _Runner:
    def __init__(self, program: Program, plan: Segments, prevent_cse: bool, scope: str):
        self.program = program
        self.plan = plan
        self.prevent_cse = prevent_cse
        self.scope = scope

    def run(self, arguments: Sequence[Any]) -> list[Any]:
        values = self.program.start(arguments)
        for segment, reads, results in _interfaces(self.program, self.plan.segments):
            if segment.is_plain:
                for at in segment.lines:
                    line = self.program.lines[at]
                    values.update(zip(line.results, self.line(at, line.operands(values)), strict=True))
            else:
                body = jax.checkpoint(
                    self.body(segment, reads, results), policy=self.policy(segment), prevent_cse=self.prevent_cse
                )
                outputs = body(*(values[x] for x in reads))
                values.update(zip(results, outputs, strict=True))
        return self.program.finish(values)

    def line(self, at: int, operands: Sequence[Any]) -> list[Any]:
        line = self.program.lines[at]
        if at not in self.plan.bodies:
            return line.run(operands)
        scope = f"{self.scope}/{line.name}.{at}"

        def body(arguments: Sequence[Any]) -> list[Any]:
            return run_segments(line.body, self.plan.bodies[at], arguments, prevent_cse=self.prevent_cse, scope=scope)

        return _scan(line, body, operands)

    def names(self, at: int) -> list[str]:
        line = self.program.lines[at]
        return [f"{self.scope}/{line.name}.{at}.{k}" for k in range(len(line.results))]

    def policy(self, segment: Segment) -> Policy:
        kept = [name for at in segment.lines if at in self.plan.kept for name in self.names(at)]
        fetched = {*segment.away, *segment.lines} & self.plan.away
        if not fetched:
            return Policy(jax.checkpoint_policies.save_only_these_names(*kept))
        return Policy(
            jax.checkpoint_policies.save_and_offload_only_these_names(
                names_which_can_be_saved=kept,
                names_which_can_be_offloaded=[name for at in sorted(fetched) for name in self.names(at)],
                offload_src="device",
                offload_dst="pinned_host",
            )
        )

    def body(self, segment: Segment, reads: Sequence[int], results: Sequence[int]) -> Callable[..., list[Any]]:
        named = self.plan.kept | self.plan.away
        labels = {
            x: name
            for at in segment.away
            for x, name in zip(self.program.lines[at].results, self.names(at), strict=True)
        }

        def run(*arguments: Any) -> list[Any]:
            # What comes from the host has its name here, or else it would wait as an argument.
            values = {
                x: checkpoint_name(value, labels[x]) if x in labels else value
                for x, value in zip(reads, arguments, strict=True)
            }
            for at in segment.lines:
                line = self.program.lines[at]
                operands = line.operands(values)
                if at in named:
                    outputs = run_named(line, operands, self.names(at), at in self.plan.own)
                else:
                    outputs = line.run(operands)
                values.update(zip(line.results, outputs, strict=True))
            return [values[x] for x in results]

        return run


def _interfaces(program: Program, segments: Sequence[Segment]) -> Iterator[tuple[Segment, list[int], list[int]]]:
    """Each segment with the values that it reads from before it, and those it makes that are read after it."""
    reads = [_reads(program, segment) for segment in segments]
    later = {x for x in program.outputs if x is not None}
    results: list[list[int]] = []
    for segment, inputs in zip(reversed(segments), reversed(reads), strict=True):
        own = {x for line in program.lines[segment.start : segment.stop] for x in line.results}
        results.append(sorted(own & later))
        later.update(inputs)
    return zip(segments, reads, reversed(results), strict=True)


def _reads(program: Program, segment: Segment) -> list[int]:
    lines = [program.lines[at] for at in segment.lines]
    inside = {x for line in lines for x in line.results}
    return list(dict.fromkeys(x for line in lines for x in line.reads if x not in inside))


def _scan(line: Line, body: Callable[[Sequence[Any]], list[Any]], operands: Sequence[Any]) -> list[Any]:
    """A scan with another body of the same arguments and results."""
    parameters = line.equation.params
    constants, carried = scan_arguments(line.eqn)
    fixed = list(operands[:constants])

    def turn(carry: Any, x: Any) -> tuple[Any, Any]:
        results = body([*fixed, *carry, *x])
        return tuple(results[:carried]), tuple(results[carried:])

    carry, stacked = jax.lax.scan(
        turn,
        tuple(operands[constants : constants + carried]),
        tuple(operands[constants + carried :]),
        length=parameters["length"],
        reverse=parameters["reverse"],
        unroll=parameters["unroll"],
    )
    return [*carry, *stacked]
