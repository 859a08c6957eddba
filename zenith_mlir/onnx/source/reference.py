"""The traced function itself, to compare a model with, and inputs for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from zenith_mlir import hook
from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.dynamic.expr import parse

__all__ = ["Reference", "as_taken", "random_like"]

Array = np.ndarray[Any, Any]
# A size that no example has, for symbols that are in no shape by themselves.
_ANY_SIZE = 3


@dataclass(frozen=True)
class Reference:
    """`function(weights, inputs)` on `weights`. `given` are the inputs of the call that was traced, arrays or shapes,
    `traced` the shapes with symbols that stood for them.
    """

    function: Callable[[list[Any], list[Any]], Any]
    weights: Sequence[Any]
    given: tuple[Any, ...]
    traced: tuple[Any, ...]

    @property
    def has_values(self) -> bool:
        """Whether there are weights to run it with."""
        return not any(isinstance(weight, jax.ShapeDtypeStruct) for weight in self.weights)

    def __call__(self, inputs: Sequence[Any]) -> list[Array]:
        """The results for arrays of these inputs, as jax.jit computes them."""
        with hook.pipeline(None):
            results = self._jitted(list(self.weights), [jax.numpy.asarray(each) for each in inputs])
        return [as_taken(each) for each in jax.tree.leaves(results)]

    def samples(self) -> Iterator[list[Any]]:
        """Inputs to compare on: those of the call, random ones where it had shapes; and random ones of other sizes
        where sizes are symbols.
        """
        generator = np.random.default_rng(0)
        symbols = self._symbols()
        yield [
            self._sized(example, symbols, generator) if isinstance(given, jax.ShapeDtypeStruct) else given
            for given, example in zip(self.given, self.traced, strict=True)
        ]
        if symbols:
            other = {name: size + 1 for name, size in symbols.items()}
            yield [
                self._sized(example, other, generator) if _is_symbolic(example) else given
                for given, example in zip(self.given, self.traced, strict=True)
            ]

    @cached_property
    def _jitted(self) -> Any:
        return jax.jit(self.function)

    def _symbols(self) -> dict[str, int]:
        """A size for each symbol: that of the example where it has one."""
        found: dict[str, int] = {}
        for given, example in zip(self.given, self.traced, strict=True):
            for size, dim in zip(np.shape(given), np.shape(example), strict=True):
                if not isinstance(dim, int):
                    known = size if isinstance(size, int) else _ANY_SIZE
                    found.update({name: found.get(name, _ANY_SIZE) for name in parse(str(dim)).symbols})
                    if str(dim) in found:
                        found[str(dim)] = known
        return found

    def _sized(self, example: Any, symbols: Mapping[str, int], generator: np.random.Generator) -> Array:
        if jax.dtypes.issubdtype(example.dtype, jax.dtypes.prng_key):
            raise ZenithError("of a random key there is only a shape to compare with; give a key, jax.random.key(0)")
        dims = [size if isinstance(size, int) else parse(str(size)).evaluate(symbols) for size in example.shape]
        return random_like(np.dtype(example.dtype), dims, generator)


def _is_symbolic(example: Any) -> bool:
    return any(not isinstance(size, int) for size in np.shape(example))


def as_taken(value: Any) -> Array:
    """What main has for an argument or result: numbers and wide arrays in the types that JAX gives them, random keys
    as their words.
    """
    if jax.dtypes.issubdtype(getattr(value, "dtype", None), jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    return np.asarray(value, jax.dtypes.canonicalize_dtype(jax.dtypes.result_type(value)))


def random_like(dtype: np.dtype[Any], dims: Sequence[int], generator: np.random.Generator) -> Array:
    """Numbers as activations have them; small ones for integers, which often are indexes."""
    if dtype.kind == "b":
        return generator.integers(0, 2, dims).astype(dtype)
    if dtype.kind in "iu":
        return generator.integers(0, 8, dims).astype(dtype)
    return generator.standard_normal(dims).astype(dtype)
