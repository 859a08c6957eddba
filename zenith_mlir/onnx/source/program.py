"""A traced program with names: what its arguments are, and the values of those that are weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from zenith_mlir.errors import ZenithError
from zenith_mlir.module import Module
from zenith_mlir.onnx.source.reference import Reference

__all__ = ["Named", "Parameter", "Source"]


@dataclass(frozen=True)
class Named:
    """Argument `index` of `main`, and what it is called."""

    index: int
    name: str


@dataclass(frozen=True)
class Parameter:
    """An argument of `main` whose value belongs to the model.

    `array` is what the user has, a jax.Array, a NumPy array or a jax.ShapeDtypeStruct (a shape without values);
    `dtype` is the one that `main` takes it in, which may be narrower, as NumPy's float64 is for JAX.
    """

    index: int
    name: str
    array: Any
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """As `main` takes it: random keys have the dimension of their words."""
        return tuple(_plain(self.array).shape)

    @property
    def has_value(self) -> bool:
        return not isinstance(self.array, jax.ShapeDtypeStruct)

    def numpy(self) -> np.ndarray[Any, Any]:
        """The value, without a copy where `array` is in the memory of the host and has `dtype` already.

        Raises:
            ZenithError: if there is only a shape, or parts of the array are on other hosts.
        """
        if not self.has_value:
            raise ZenithError(
                f"the parameter {self.name} has a shape, {self.shape}, but no value; give arrays, or export weights "
                'as inputs of the model: weights="input"'
            )
        if isinstance(self.array, jax.Array) and not self.array.is_fully_addressable:
            raise ZenithError(
                f"parts of the parameter {self.name} are on other hosts; gather it to this one first "
                "(jax.experimental.multihost_utils.process_allgather)"
            )
        return np.asarray(_plain(self.array)).astype(self.dtype, copy=False)


@dataclass(frozen=True)
class Source:
    """A module with the meaning of its arguments and results.

    `parameters` and `inputs` together are the arguments of `main`, each once, but for those in front that hold the
    sizes of symbolic dimensions (`jax.global_constant`). Parameters come in the order of the pytree, arrays that the
    function closes over first; inputs in the order of the function's parameters. `outputs` names the results in order.
    `notes` are sentences that a report should show, and `reference` runs what was traced.
    """

    module: Module
    parameters: tuple[Parameter, ...]
    inputs: tuple[Named, ...]
    outputs: tuple[str, ...]
    notes: tuple[str, ...]
    reference: Reference


def _plain(array: Any) -> Any:
    """Random keys are arrays of words to a compiled program."""
    if not jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, array)
    return jax.random.key_data(array)
