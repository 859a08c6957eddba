"""Running a pipeline over a module, and finding out what there is to say about it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

from zenith_mlir import __version__
from zenith_mlir.context import Numerics, PassContext
from zenith_mlir.errors import ZenithError
from zenith_mlir.instrument import Instrument
from zenith_mlir.ir.facts import walk
from zenith_mlir.memory.estimate import estimated_report
from zenith_mlir.memory.memory_report import MemoryReport
from zenith_mlir.module import Module
from zenith_mlir.pipeline import Pipeline
from zenith_mlir.report.findings import Findings, PassRun
from zenith_mlir.target import Target

__all__ = ["run"]


def run(
    module: Module,
    name: str,
    pipeline: Pipeline,
    target: Target,
    numerics: Numerics = "sound",
    *,
    compiled: bool = False,
    progress: Callable[[str], None] = lambda doing: None,
) -> Findings:
    """Run `pipeline` over `module`, in place. Memory is estimated; if `compiled`, it is what XLA says of the module
    compiled for `target` before and after. `progress` is told what is being done.

    Raises:
        PassError: when a pass fails.
        ZenithError: if it shall be compiled and cannot be.
    """
    ctx = PassContext(target, numerics)
    instrument = Instrument(timing=True, statistics=True, progress=lambda each: progress(f"running {each}"))
    operations = _operations(module)
    before, no_memory = _memory(module, target, compiled, progress)
    pipeline.run(module, ctx, instrument)
    after, reason = _memory(module, target, compiled, progress) if before is not None else (None, no_memory)
    return Findings(
        name=name,
        pipeline=str(pipeline),
        target=str(target),
        numerics=numerics,
        versions={"zenith_mlir": __version__, **{each: importlib.metadata.version(each) for each in ("jax", "jaxlib")}},
        passes=_passes(instrument),
        operations=(operations, _operations(module)),
        remarks=ctx.remarks,
        before=before,
        after=after,
        no_memory=reason,
    )


def _memory(
    module: Module, target: Target, compiled: bool, progress: Callable[[str], None]
) -> tuple[MemoryReport | None, str]:
    """What the program takes, or why that cannot be told."""
    if compiled:
        from zenith_mlir.memory.sources import report  # loads jax

        progress("compiling")
        return report(module.compile(target)), ""
    progress("estimating memory")
    try:
        return estimated_report(module), ""
    except ZenithError as error:
        return None, str(error)


def _passes(instrument: Instrument) -> list[PassRun]:
    runs = []
    for (name, seconds), (_, counts) in zip(instrument.times, instrument.counts, strict=True):
        gained = {key: n for key, n in counts.items() if n and key != "operations"}
        runs.append(PassRun(name, seconds, counts["operations"], gained))
    return runs


def _operations(module: Module) -> int:
    return sum(1 for _ in walk(module.operation))
