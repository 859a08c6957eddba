"""Program: a module on its way to a file, with the names and weights of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.errors import ZenithError, did_you_mean
from zenith_mlir.ir.facts import element_type, shape
from zenith_mlir.ir.signature import argument_attributes, main_function, numpy_dtype
from zenith_mlir.module import Module

if TYPE_CHECKING:
    from zenith_mlir.onnx.source import Source

__all__ = ["Program", "Weight"]


@dataclass(frozen=True)
class Weight:
    """An argument whose value belongs to the model; `array` gives it, and is asked once when it is written.

    `origin` is the array of the user, if there is one: weights with the same are one.
    """

    name: str
    array: Callable[[], np.ndarray[Any, Any]]
    origin: Any = None


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
            {each.index: Weight(each.name, each.numpy, each.array) for each in source.parameters},
            {each.index: each.name for each in source.inputs},
            source.outputs,
            source.notes,
        )

    @classmethod
    def of_module(cls, module: Module, params: Any = None, named: Mapping[str, Any] | None = None) -> Program:
        """The program of a module as it is; `params` is a pytree of arrays whose leaves are its first arguments;
        `named` are arrays by the names of arguments.

        Raises:
            ZenithError: for arrays that do not fit the arguments.
        """
        main = main_function(module.ir)
        arguments = list(main.regions[0].blocks[0].arguments)
        sizes = [i for i, each in enumerate(argument_attributes(main)) if "jax.global_constant" in each]
        names = unique(_plain(spec.name) for spec in module.input_specs)
        real = [i for i in range(len(arguments)) if i not in sizes]
        titled: list[Argument] = [(i, names[i], arguments[i]) for i in real]
        weights = {**_first(params, titled), **_named(named or {}, titled)}
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


Argument = tuple[int, str, ir.Value]


def _first(params: Any, arguments: Sequence[Argument]) -> dict[int, Weight]:
    """The leaves of a pytree for the first arguments."""
    import jax

    leaves = jax.tree.leaves(params)
    if len(leaves) > len(arguments):
        raise ZenithError(f"there are {len(leaves)} arrays in params and {len(arguments)} arguments of main")
    return dict(_fitting(leaf, argument) for leaf, argument in zip(leaves, arguments, strict=False))


def _named(named: Mapping[str, Any], arguments: Sequence[Argument]) -> dict[int, Weight]:
    known = {argument[1]: argument for argument in arguments}
    for name in named:
        if name not in known:
            raise ZenithError(
                f"there is an array {name}, which is no argument of main{did_you_mean(name, known)}; arguments are "
                f"{', '.join(known)}"
            )
    return dict(_fitting(array, known[name]) for name, array in named.items())


def _fitting(array: Any, argument: Argument) -> tuple[int, Weight]:
    import jax

    index, name, value = argument
    expected = shape(value), numpy_dtype(element_type(value))
    if isinstance(array, bool | int | float) and jax.dtypes.result_type(expected[1], array) == expected[1]:
        array = np.asarray(array, expected[1])
    if not hasattr(array, "dtype"):
        raise ZenithError(f"an array is expected for the argument {name} of main, not {type(array).__name__}")
    given = tuple(np.shape(array)), np.dtype(array.dtype)
    if given != expected:
        raise ZenithError(
            f"the argument {name} of main is {expected[1]}{list(expected[0])}, and the array for it {given[1]}"
            f"{list(given[0])}; arrays of a pytree are the first arguments, in its order"
        )
    return index, Weight(name, lambda: np.asarray(array), array)
