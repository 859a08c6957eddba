"""Where a report's numbers come from: XLA for what is compiled, the program's text for what is not."""

from __future__ import annotations

from typing import Any

import jax

from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.executable import Executable
from zenith_mlir.ir.hlo import read_program
from zenith_mlir.ir.wire import WireError
from zenith_mlir.memory.estimate import estimated_report
from zenith_mlir.memory.liveness import timeline_of
from zenith_mlir.memory.memory_report import MemoryReport
from zenith_mlir.memory.timeline import Timeline
from zenith_mlir.module import Module

__all__ = ["report"]


def report(program: jax.stages.Compiled | jax.stages.Lowered | Executable | Module) -> MemoryReport:
    """What `program` takes. Compiled, `jax.jit(f).lower(x).compile()` or `Module.compile()`, the numbers are XLA's, and
    the timeline follows its schedule. Lowered, or a `zenith.Module`, they are an estimate from the program's text;
    nothing is compiled.

    >>> import jax, jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    >>> compiled = jax.jit(lambda x: (jnp.sin(x) @ x).sum()).lower(x).compile()
    >>> found = report(compiled)
    >>> found.arguments, found.exact, found.at_peak[0].shape
    (262144, True, 'f32[256,256]')

    Raises:
        ZenithError: if `program` is none of these, has no `main`, or a shape known only when called.
    """
    if isinstance(program, Module):
        return estimated_report(program)
    if isinstance(program, Executable):
        return _compiled(program.memory_analysis(), program.hlo_modules())
    if isinstance(program, jax.stages.Compiled):
        executable: Any = program.runtime_executable()
        return _compiled(program.memory_analysis(), executable.hlo_modules())
    if isinstance(program, jax.stages.Lowered):
        lowered: Any = program.compiler_ir("stablehlo")
        return estimated_report(Module(lowered))
    raise ZenithError(
        "memory.report takes what jax.jit(f).lower(x) or its .compile() returns, or a zenith Module or what its "
        f".compile() returns; got {type(program).__name__}"
    )


def _compiled(stats: Any, modules: list[Any]) -> MemoryReport:
    if stats is None:
        raise ZenithError("this backend does not say what its programs take; report on the lowered program instead")
    kinds = ("argument", "output", "temp")
    # The host's numbers have an alias term too: what is donated there counts once.
    host = sum(getattr(stats, f"host_{kind}_size_in_bytes") for kind in kinds) - stats.host_alias_size_in_bytes
    return MemoryReport(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        host=host,
        exact=True,
        timeline=_timeline(stats, modules),
    )


def _timeline(stats: Any, modules: list[Any]) -> Timeline | None:
    assignment = stats.serialized_buffer_assignment_proto
    if not assignment or len(modules) != 1:
        return None
    try:
        return timeline_of(read_program(modules[0].as_serialized_hlo_module_proto(), assignment))
    except (WireError, LookupError):  # another XLA may write other messages; the sizes are right all the same
        return None
