"""Program: a module on its way to a file, with the names and weights of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.facts import shape
from zenith_mlir.ir.signature import argument_attributes, main_function
from zenith_mlir.module import Module

if TYPE_CHECKING:
    from jaxlib.mlir import ir

    from zenith_mlir.onnx.source import Source

__all__ = ["Program", "Weight"]


@dataclass(frozen=True)
class Weight:
    """An argument whose value belongs to the model; `array` gives it, and is asked once when it is written."""

    name: str
    array: Callable[[], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Program:
    """A module, which of the arguments of main are weights, and what the others and the results are called."""

    module: Module
    weights: Mapping[int, Weight] = field(default_factory=dict)
    inputs: Mapping[int, str] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of_source(cls, source: Source) -> Program:
        return cls(
            source.module,
            {each.index: Weight(each.name, each.numpy) for each in source.parameters},
            {each.index: each.name for each in source.inputs},
            source.outputs,
            source.notes,
        )

    @classmethod
    def of_module(cls, module: Module, params: Any = None) -> Program:
        """The program of a module as it is; `params` is a pytree of arrays whose leaves are its first arguments.

        Raises:
            ZenithError: for arrays that do not fit the arguments.
        """
        main = main_function(module.ir)
        arguments = list(main.regions[0].blocks[0].arguments)
        sizes = [i for i, each in enumerate(argument_attributes(main)) if "jax.global_constant" in each]
        names = unique(_plain(spec.name) for spec in module.input_specs)
        real = [i for i in range(len(arguments)) if i not in sizes]
        weights = _fitting(params, [(i, names[i], arguments[i]) for i in real])
        inputs = {i: names[i] for i in real if i not in weights}
        return cls(module, weights, inputs)

    @property
    def arrays(self) -> dict[int, Callable[[], np.ndarray[Any, Any]]]:
        return {index: weight.array for index, weight in self.weights.items()}


def unique(names: Iterable[str]) -> list[str]:
    """The names, with numbers behind those that came before."""
    found: dict[str, None] = {}
    for name in names:
        number, candidate = 1, name
        while candidate in found:
            candidate, number = f"{name}_{number}", number + 1
        found[candidate] = None
    return list(found)


def _plain(name: str) -> str:
    """`params['layer']['w']` as `params.layer.w`."""
    return name.replace("['", ".").replace("']", "").replace("[", ".").replace("]", "")


def _fitting(params: Any, arguments: Sequence[tuple[int, str, ir.Value]]) -> dict[int, Weight]:
    if params is None:
        return {}
    import jax

    leaves = jax.tree.leaves(params)
    if len(leaves) > len(arguments):
        raise ZenithError(f"there are {len(leaves)} arrays in params and {len(arguments)} arguments of main")
    found = {}
    for leaf, (index, name, argument) in zip(leaves, arguments, strict=False):
        if tuple(np.shape(leaf)) != shape(argument):
            raise ZenithError(
                f"an array of params has the shape {tuple(np.shape(leaf))}, and the argument that it is for, {name}, "
                f"{shape(argument)}; the arrays of params are the first arguments of main, in the order of the pytree"
            )
        found[index] = Weight(name, lambda leaf=leaf: np.asarray(leaf))  # type: ignore[misc]
    return found
