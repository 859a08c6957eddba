"""compare: a whole program before and after a pipeline: errors against float64, time, memory, fusions."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from zenith_mlir.certify.certificate import Certificate
from zenith_mlir.certify.inputs import InputSet
from zenith_mlir.certify.judge import is_float_like
from zenith_mlir.certify.pair import Trio, run
from zenith_mlir.certify.roles import argument_roles, draw
from zenith_mlir.context import Numerics
from zenith_mlir.ir.executable import Executable
from zenith_mlir.ir.facts import walk_named
from zenith_mlir.pipeline import Pipeline
from zenith_mlir.target import Target

if TYPE_CHECKING:
    from zenith_mlir.module import Module

__all__ = ["Comparison", "Cost", "compare", "random_inputs", "timed"]


@dataclass(frozen=True)
class Cost:
    """Seconds a run takes, and bytes of temporary memory as XLA plans them."""

    median: float
    minimum: float
    temp_bytes: int


@dataclass(frozen=True)
class Comparison:
    """A program before and after a pipeline.

    `raised` counts recognised sites by composite, `kernels` the kernel calls in the rewritten program by
    their target; `declined` holds the remarks of what was recognised or nearly so, and left to XLA.
    """

    certificate: Certificate
    before: Cost
    after: Cost
    raised: dict[str, int]
    kernels: dict[str, int]
    declined: tuple[str, ...]


def compare(
    module: Module,
    pipeline: str | Pipeline = "default",
    *,
    arrays: Sequence[NDArray[Any]] | None = None,
    seed: int = 0,
    target: Target | None = None,
    numerics: Numerics = "sound",
    repeat: int = 5,
) -> Comparison:
    """Run `module` as it is and after `pipeline`, on `arrays` or on random arguments drawn from `seed`.

    Raises:
      ZenithError: the pipeline fails, a program does not compile, or the arrays do not fit `main`.
    """
    rewritten = module.run(pipeline, target=target, numerics=numerics)
    trio = Trio.compile(module, rewritten, target)
    if arrays is None:
        name, arrays = random_inputs(module, seed, trio.original)
    else:
        name = "given"
    certificate = Certificate("module", tuple(trio.judge(name, arrays)), numerics)
    before, after = timed([trio.original, trio.rewritten], arrays, repeat)
    passed = [remark for remark in rewritten.remarks if remark.kind == "passed" and remark.op]
    return Comparison(
        certificate=certificate,
        before=before,
        after=after,
        raised=dict(Counter(remark.op for remark in passed if remark.pass_name != "lower-kernels")),
        kernels=_kernel_calls(rewritten),
        declined=tuple(remark.text() for remark in rewritten.remarks if remark.kind == "missed"),
    )


def random_inputs(module: Module, seed: int, executable: Executable) -> InputSet:
    """Random arguments on which `executable`, the compiled module, has numbers to judge.

    Random masks come first; where they leave half of a result without a finite number (a row with nothing to
    see, filled with -inf, spreads NaN), masks are all ones.
    """
    roles = argument_roles(module)
    arrays = draw(roles, seed)
    if all(_mostly_finite(result) for result in run(executable, arrays)):
        return InputSet(f"random:{seed}", tuple(arrays))
    return InputSet(f"random:{seed}, masks all ones", tuple(draw(roles, seed, masks="ones")))


def _mostly_finite(result: NDArray[Any]) -> bool:
    return not is_float_like(result.dtype) or result.size == 0 or bool(np.isfinite(result).mean() >= 0.5)


def timed(executables: Sequence[Executable], arrays: Sequence[NDArray[Any]], repeat: int) -> list[Cost]:
    """The cost of each executable on the same arrays, by turns: a slow moment of the machine meets all."""
    with jax.enable_x64(True):
        placed = [jax.device_put(array) for array in arrays]
    seconds: list[list[float]] = [[] for _ in executables]
    for _ in range(repeat):
        for executable, taken in zip(executables, seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(executable(*placed))
            taken.append(time.perf_counter() - start)
    return [
        Cost(statistics.median(taken), min(taken), int(executable.memory_analysis().temp_size_in_bytes))
        for executable, taken in zip(executables, seconds, strict=True)
    ]


def _kernel_calls(module: Module) -> dict[str, int]:
    with module.context:
        calls = walk_named(module.operation, "stablehlo.custom_call")
        names = [str(ir.StringAttr(call.attributes["call_target_name"]).value) for call in calls]
    return dict(Counter(name for name in names if name.startswith(("zenith_", "__cudnn$"))))
