"""What is watched while a pipeline runs: printing, differences, timing, statistics, reproducers,
verification.

Each is one small context manager around a stage, in the table at the end.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TextIO

from zenith_mlir.errors import PipelineError, ZenithError, did_you_mean

if TYPE_CHECKING:
    from zenith_mlir.context import Numerics, PassContext
    from zenith_mlir.module import Module
    from zenith_mlir.pipeline import Pipeline

__all__ = ["ALL", "Instrument", "Reproducer", "running_reproducer"]

ALL = frozenset({"*"})


@dataclass(frozen=True)
class Stage:
    """One pass about to run."""

    pipeline: Pipeline
    index: int
    module: Module
    ctx: PassContext

    @property
    def name(self) -> str:
        return self.pipeline.stages[self.index].name


@dataclass
class Instrument:
    """Everything off but `verify_each` unless asked for.

    `print_before` and `print_after` are names of passes, or `ALL`. Reports go to `stream`, standard error
    unless given. `progress` is called with the name of every pass before it runs.
    """

    verify_each: bool = True
    timing: bool = False
    statistics: bool = False
    print_before: Collection[str] = ()
    print_after: Collection[str] = ()
    print_after_change: bool = False
    print_diff: bool = False
    crash_reproducer: str | None = None
    stream: TextIO | None = None
    progress: Callable[[str], None] | None = None
    times: list[tuple[str, float]] = field(default_factory=list)
    counts: list[tuple[str, Counter[str]]] = field(default_factory=list)

    @contextlib.contextmanager
    def pipeline(self, pipeline: Pipeline, module: Module, ctx: PassContext) -> Iterator[None]:
        """Wraps a whole run; the reports are written by `report` once everything is done."""
        names = {stage.name for stage in pipeline.stages}
        for name in {*self.print_before, *self.print_after} - names - ALL:
            raise PipelineError(
                f"no pass {name} runs in {str(pipeline)!r} to print the IR of{did_you_mean(name, names)}"
            )
        yield

    @contextlib.contextmanager
    def stage(self, pipeline: Pipeline, index: int, module: Module, ctx: PassContext) -> Iterator[None]:
        """Wraps one pass."""
        stage = Stage(pipeline, index, module, ctx)
        if self.progress:
            self.progress(stage.name)
        with contextlib.ExitStack() as stack:
            for wanted, watch in _WATCHES:
                if wanted(self, stage):
                    stack.enter_context(watch(self, stage))
            yield

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time of the block to the timing report."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.times.append((name, time.perf_counter() - start))

    def report(self) -> None:
        """Write what `timing` and `statistics` gathered."""
        if self.statistics:
            self._table("Statistics", ["pass", "statistic", "count"], _statistics_rows(self.counts))
        if self.timing:
            self._table("Timing", ["pass", "seconds", "share"], _timing_rows(self.times))

    def _print(self, text: str) -> None:
        print(text.rstrip("\n"), file=self.stream or sys.stderr, flush=True)

    def _table(self, title: str, columns: list[str], rows: list[tuple[str, ...]]) -> None:
        from rich.box import (
            SIMPLE_HEAD,
        )  # rich takes a quarter of the start-up time: only where a table is shown
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index and column != "statistic" else "left")
        for row in rows:
            table.add_row(*row)
        Console(file=self.stream or sys.stderr).print(table)


@contextlib.contextmanager
def _time(self: Instrument, stage: Stage) -> Iterator[None]:
    with self.timed(stage.name):
        yield


@contextlib.contextmanager
def _count(self: Instrument, stage: Stage) -> Iterator[None]:
    before, operations = Counter(stage.ctx.statistics), _count_operations(stage.module)
    yield
    gained = Counter(stage.ctx.statistics)
    gained.subtract(before)
    gained["operations"] += _count_operations(stage.module) - operations
    self.counts.append((stage.name, gained))


@contextlib.contextmanager
def _print_before(self: Instrument, stage: Stage) -> Iterator[None]:
    self._print(f"// -----// IR Dump Before {stage.name} //----- //\n{stage.module.text()}")
    yield


@contextlib.contextmanager
def _print_after(self: Instrument, stage: Stage) -> Iterator[None]:
    yield
    self._print(f"// -----// IR Dump After {stage.name} //----- //\n{stage.module.text()}")


@contextlib.contextmanager
def _print_change(self: Instrument, stage: Stage) -> Iterator[None]:
    before = stage.module.text()
    yield
    after = stage.module.text()
    if after != before and self.print_after_change:
        self._print(f"// -----// IR Dump After {stage.name} //----- //\n{after}")
    if after != before and self.print_diff:
        names = (f"before {stage.name}", f"after {stage.name}")
        diff = difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="")
        self._print("\n".join(diff))


@contextlib.contextmanager
def _keep_reproducer(self: Instrument, stage: Stage) -> Iterator[None]:
    """Written before the pass runs, since a pass may take the whole process with it, and renamed when it
    fails.
    """
    from zenith_mlir.ir.serialize import write_file

    path = str(self.crash_reproducer)
    running = running_reproducer(path)
    reproducer = Reproducer(str(stage.pipeline.stages[stage.index]), str(stage.ctx.target), stage.ctx.numerics)
    write_file(running, reproducer.write(stage.module).encode())
    try:
        yield
    except Exception:
        os.replace(running, path)
        raise
    os.unlink(running)


_WATCHES: list[
    tuple[Callable[[Instrument, Stage], bool], Callable[[Instrument, Stage], AbstractContextManager[None]]]
] = [
    (lambda self, stage: self.crash_reproducer is not None, _keep_reproducer),
    (lambda self, stage: bool({stage.name, "*"} & {*self.print_before}), _print_before),
    (lambda self, stage: bool({stage.name, "*"} & {*self.print_after}), _print_after),
    (lambda self, stage: self.print_after_change or self.print_diff, _print_change),
    (lambda self, stage: self.statistics, _count),
    (lambda self, stage: self.timing, _time),  # innermost: what the others do is not the pass's time
]


@dataclass(frozen=True)
class Reproducer:
    """What runs a failing pass again: a comment in front of the module it was given."""

    pipeline: str
    target: str
    numerics: Numerics

    HEADER: ClassVar[str] = "// zenith-opt --run-reproducer: "

    def write(self, module: Module) -> str:
        return self.HEADER + json.dumps(vars(self)) + "\n" + module.text(debug_info=True)

    @classmethod
    def read(cls, text: str, name: str) -> Reproducer:
        """The reproducer in the first line of a file.

        Raises:
            ZenithError: if there is none.
        """
        line = text.partition("\n")[0]
        try:
            return cls(**json.loads(line.removeprefix(cls.HEADER)))
        except (ValueError, TypeError):
            raise ZenithError(
                f"{name}:1:1: no reproducer: the first line is not {cls.HEADER.strip()!r} and a pipeline"
            ) from None


def running_reproducer(path: str) -> str:
    """Where the reproducer of the pass that is running lies until it is known whether it fails."""
    return f"{path}.running"


def _statistics_rows(counts: list[tuple[str, Counter[str]]]) -> list[tuple[str, ...]]:
    return [
        (name, key, f"{n:+d}" if key == "operations" else str(n))
        for name, gained in counts
        for key, n in gained.items()
        if n or key == "operations"
    ]


def _timing_rows(times: list[tuple[str, float]]) -> list[tuple[str, ...]]:
    total = sum(seconds for _, seconds in times) or 1.0
    rows = [*times, ("total", total)]
    return [(name, f"{seconds:.4f}", f"{seconds / total:.1%}") for name, seconds in rows]


def _count_operations(module: Module) -> int:
    from jaxlib.mlir import ir

    count = 0

    def visit(op: ir.Operation) -> ir.WalkResult:
        nonlocal count
        count += 1
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return count
