"""Comparing a written model with the program that it was made of, on the example or on random inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zenith_mlir.certify.compare import random_inputs
from zenith_mlir.onnx.complex_values import as_parts
from zenith_mlir.onnx.conversion import at_sizes
from zenith_mlir.onnx.differences import Difference, compare_arrays, worst
from zenith_mlir.onnx.layouts import stored_permutation
from zenith_mlir.onnx.options import Options
from zenith_mlir.onnx.program import Program
from zenith_mlir.onnx.report import Validation
from zenith_mlir.onnx.run import Session
from zenith_mlir.onnx.source import Source
from zenith_mlir.onnx.source.reference import as_taken

__all__ = ["Check", "ModuleCheck", "compare_results", "stored", "worst_of"]

Array = np.ndarray[Any, Any]
# For symbolic dimensions.
_ANY_SIZE = 3


@dataclass(frozen=True)
class Check:
    """Runs the traced function itself, under jax.jit. Symbolic sizes are tried at two values each."""

    source: Source
    options: Options
    tolerance: float | None = None

    def __call__(self, path: Path) -> Validation:
        session = Session(path, mapped=self.options.weights == "external")
        names = [each.name for each in self.source.inputs]
        given = [each.numpy() for each in self.source.parameters] if self.options.weights == "input" else []
        rows = []
        reference = self.source.reference
        for sample in reference.samples():
            expected = reference(sample)
            found = session([*given, *stored(self.options.layouts, names, [as_taken(each) for each in sample])])
            rows.append(compare_results(self.options.layouts, session.outputs, expected, found))
        return Validation(worst_of(rows), len(rows), self.tolerance)


@dataclass(frozen=True)
class ModuleCheck:
    """Compiles the module and runs it on random inputs."""

    program: Program
    options: Options
    tolerance: float | None = None

    def __call__(self, path: Path) -> Validation:
        program = at_sizes(self.program, _ANY_SIZE)
        module, weights = program.module, program.weights
        executable = module.compile("cpu")
        drawn = random_inputs(module, 0, executable).arrays
        arrays = [weights[i].array() if i in weights else array for i, array in enumerate(drawn)]
        expected = [np.asarray(each) for each in executable(*arrays)]
        session = Session(path, mapped=self.options.weights == "external")
        inputs = {i: array for i, array in enumerate(arrays) if i not in weights or self.options.weights == "input"}
        names = [program.inputs.get(i, "") for i in inputs]
        found = session(stored(self.options.layouts, names, list(inputs.values())))
        differences = compare_results(self.options.layouts, session.outputs, expected, found)
        return Validation(worst_of([differences]), 1)


def stored(layouts: Mapping[str, str], names: Sequence[str], arrays: Sequence[Any]) -> list[Any]:
    """The arrays as the file has them."""
    return [
        np.transpose(array, stored_permutation(layouts, name, np.shape(array)))
        for name, array in zip(names, map(as_parts, arrays), strict=True)
    ]


def compare_results(
    layouts: Mapping[str, str], names: Sequence[str], expected: Sequence[Array], found: Sequence[Array]
) -> list[Difference]:
    """Each output of the file beside that of the program."""
    return [
        compare_arrays(name, left, right)
        for name, left, right in zip(names, stored(layouts, names, expected), found, strict=True)
    ]


def worst_of(rows: Sequence[Sequence[Difference]]) -> tuple[Difference, ...]:
    """The worst of each output over samples."""
    columns = (worst(column) for column in zip(*rows, strict=True))
    return tuple(each for each in columns if each is not None)
