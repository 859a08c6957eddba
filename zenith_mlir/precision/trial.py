"""The three programs behind a precision report, and what they are told to return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from zenith_mlir.certify.pair import quick_options, run, widened
from zenith_mlir.context import Numerics
from zenith_mlir.ir.executable import Executable, compile_module
from zenith_mlir.ir.float64 import to_float64
from zenith_mlir.ir.probes import Probe, add_outputs, find, mark_values, rewire, sources, unseen
from zenith_mlir.module import Module
from zenith_mlir.pipeline import Pipeline
from zenith_mlir.target import Target

__all__ = ["Arrays", "Judge", "Trial"]

Array = NDArray[Any]
Arrays = dict[Probe, Array]


@dataclass(frozen=True)
class Trial:
    """A marked program, the same after the pipeline and in float64, and what they run on."""

    original: Module
    rewritten: Module
    float64: Module
    probes: tuple[Probe, ...]
    target: str | Target | None
    arrays: Sequence[Array]

    @classmethod
    def prepare(
        cls,
        module: Module,
        pipeline: Pipeline,
        target: str | Target | None,
        numerics: Numerics,
        arrays: Sequence[Array],
    ) -> Trial:
        """Mark the operations of `module`, whose calls are inlined, and run `pipeline` on it."""
        marked = module.clone()
        probes = mark_values(marked.ir)
        rewritten = marked.run(pipeline, target=target, numerics=numerics)
        return cls(marked, rewritten, to_float64(marked), tuple(probes), target, arrays)

    @property
    def unseen(self) -> int:
        """Operations in branches and in loops that are not counted."""
        with self.original.context:
            return unseen(self.original.ir)

    def read_by(self, chosen: Sequence[Probe]) -> list[Probe]:
        """The probed values that the operations of `chosen` read."""
        with self.float64.context:
            values = find(self.float64.ir, self.probes)
            stops = {value: probe for probe, value in values.items()}
            return sources([values[probe] for probe in chosen if probe in values], stops)

    def run_rewritten(self, probes: Sequence[Probe]) -> tuple[list[Array], Arrays]:
        """Results of the program after the pipeline, and x̂ for those of `probes` that it still has."""
        module = self.rewritten.clone()
        with module.context, ir.Location.unknown():
            values = find(module.ir, probes)
            add_outputs(module.ir, values)
        # XLA may otherwise leave out the roundings that shall be judged.
        executable = compile_module(module, self.target, compiler_options={"xla_allow_excess_precision": False})
        return _split(run(executable, self.arrays), list(values))

    def run_shadow(self, probes: Sequence[Probe], given: Arrays) -> Arrays:
        """f(x̂_in) of each of `probes`, the values x̂ that they read being `given`."""
        module = self.float64.clone()
        with module.context, ir.Location.unknown():
            values = find(module.ir, [*probes, *given])
            rewire(module.ir, {probe: values[probe] for probe in given}, lambda value, other: other)
            add_outputs(module.ir, {probe: values[probe] for probe in probes})
        specs = module.input_specs[len(self.arrays) :]
        extra = [array.astype(spec.dtype) for array, spec in zip(given.values(), specs, strict=True)]
        results = run(_compile_float64(module), [*map(widened, self.arrays), *extra])
        return {probe: widened(value) for probe, value in _split(results, probes)[1].items()}

    def judge(self, probes: Sequence[Probe]) -> Judge:
        """The float64 program, which can be disturbed at `probes`."""
        module = self.float64.clone()
        with module.context, ir.Location.unknown():
            values = find(module.ir, probes)
            rewire(module.ir, values, _sum)
            add_outputs(module.ir, values)
        specs = module.input_specs[len(self.arrays) :]
        cpu = jax.devices("cpu")[0]
        with jax.enable_x64(True):
            arrays = [jax.device_put(widened(array), cpu) for array in self.arrays]
            zeros = [
                jax.device_put(np.zeros(probe.shape, spec.dtype), cpu)
                for probe, spec in zip(values, specs, strict=True)
            ]
        return Judge(_compile_float64(module), arrays, dict(zip(values, zeros, strict=True)))


@dataclass(frozen=True)
class Judge:
    """The program in float64, which adds to its values what it is told."""

    executable: Executable
    arrays: Sequence[Any]
    nothing: dict[Probe, Any]

    def run(self, added: Arrays) -> tuple[list[Array], Arrays]:
        """The results of the program and the values x, each as it is before anything is added to it."""
        extra = [added[probe].astype(zero.dtype) if probe in added else zero for probe, zero in self.nothing.items()]
        results, values = _split(run(self.executable, [*self.arrays, *extra]), list(self.nothing))
        return results, {probe: widened(value) for probe, value in values.items()}


def _compile_float64(module: Module) -> Executable:
    return compile_module(module, "cpu", compiler_options=quick_options(module))


def _sum(value: ir.Value, other: ir.Value) -> ir.Value:
    result: ir.Value
    (result,) = ir.Operation.create("stablehlo.add", results=[value.type], operands=[value, other]).results
    return result


def _split(results: Sequence[Array], probes: Sequence[Probe]) -> tuple[list[Array], Arrays]:
    """The results of the program itself, and what it returns for `probes` behind them."""
    own = len(results) - len(probes)
    return list(results[:own]), dict(zip(probes, results[own:], strict=True))
