"""jax2onnx's own examples: the test cases that its plugins carry, as functions with arguments.

A test case says what is called, with values or with shapes; tests/t_generator.py of jax2onnx says what is made of it,
and this does the same: a dimension that is a name is either a size or stays symbolic, and a case of floats runs in
float32 or, under x64, in float64.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

# What stands for a named dimension.
SIZE = 3
VARIANTS = ("concrete", "dynamic", "f64")


@dataclasses.dataclass(frozen=True)
class Example:
    """A test case in one variant: `concrete` at sizes, `dynamic` with dimensions that stay names in what an exporter is
    given, `f64` with floats of double precision. `x64` says whether it runs under x64.
    """

    name: str
    family: str
    component: str
    case: dict[str, Any]
    variant: str
    x64: bool

    @property
    def symbolic(self) -> bool:
        return self.variant == "dynamic"

    @property
    def keywords(self) -> dict[str, Any]:
        """What the function takes by name; jax2onnx makes inputs of them."""
        return dict(self.case.get("input_params") or {})

    def build(self) -> Callable[..., Any]:
        """The function, made anew where the case says how."""
        function = self.case["callable"]
        if hasattr(function, "with_dtype"):
            function = function.with_dtype(jnp.float64 if self.x64 else jnp.float32)
        with jax.enable_x64(self.x64):
            built: Callable[..., Any] = function.instantiate() if hasattr(function, "instantiate") else function
        return built

    def arguments(self, size: int | None = None) -> list[NDArray[Any]]:
        """Arrays: the case's own, or small random ones of its shapes, with named dimensions of a size."""
        if self.case.get("input_shapes") is None:
            return [self._cast(np.asarray(value)) for value in self.case.get("input_values") or ()]
        generator = np.random.default_rng(int(hashlib.sha256(self.name.encode()).hexdigest()[:16], 16))
        return [
            self._cast(_draw(generator, _sizes(shape, size or SIZE), dtype))
            for shape, dtype in zip(_shapes(self.case), self._dtypes(), strict=True)
        ]

    def specs(self) -> list[Any]:
        """The arguments as jax2onnx's tests describe them to it."""
        if self.case.get("input_shapes") is None:
            return [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in self.arguments()]
        shapes = [shape if self.symbolic else _sizes(shape) for shape in _shapes(self.case)]
        if not self.case.get("input_dtypes"):
            return shapes
        with jax.enable_x64(self.x64):
            return [jax.ShapeDtypeStruct(s, d) for s, d in zip(shapes, self._dtypes(), strict=True)]

    def symbols(self) -> dict[int, str]:
        """The shapes that have named dimensions, by argument, as jax.export writes them."""
        shapes = enumerate(_shapes(self.case))
        return {i: ", ".join(map(str, shape)) for i, shape in shapes if any(isinstance(size, str) for size in shape)}

    def _dtypes(self) -> list[Any]:
        dtypes = self.case.get("input_dtypes") or [jnp.float32] * len(self.case["input_shapes"])
        return [np.float64 if self.x64 and jnp.issubdtype(each, jnp.floating) else each for each in dtypes]

    def _cast(self, array: NDArray[Any]) -> NDArray[Any]:
        """As JAX takes numbers that say no precision: in float32 and int32, or in float64 under x64."""
        if self.x64:
            return array.astype(np.float64) if array.dtype.kind == "f" else array
        narrow = {"float64": "float32", "int64": "int32", "uint64": "uint32", "complex128": "complex64"}
        return array.astype(narrow.get(array.dtype.name, array.dtype))


def collect() -> dict[str, Example]:
    """Every example of the installed jax2onnx by its name. Imports all its plugins, which takes seconds."""
    out: dict[str, Example] = {}
    for family, component, case in _cases():
        for variant, x64 in _variants(case):
            suffix = "" if variant == "concrete" else f"_{variant}"
            name = plain = f"{family}/{component}/{case['testcase']}{suffix}"
            times = 1
            while name in out:
                times += 1
                name = f"{plain}#{times}"
            out[name] = Example(name, family, component, case, variant, x64)
    return out


def _cases() -> Iterator[tuple[str, str, dict[str, Any]]]:
    from jax2onnx.plugins import plugin_system

    plugin_system.import_all_plugins()
    plugins = [each.metadata for each in plugin_system.PLUGIN_REGISTRY.values() if hasattr(each, "metadata")]
    for entry in [*plugins, *plugin_system.EXAMPLE_REGISTRY.values()]:
        for case in entry.get("testcases", ()):
            yield entry.get("context", "none"), entry.get("component", "none"), case


def _variants(case: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    wide = ("run_only_f64_variant", "enable_double_precision")
    only64 = any(case.get(key) for key in wide) or case["testcase"].endswith("_f64")
    only32 = case.get("run_only_f32_variant") or case.get("disable_float64_test")
    shapes = case.get("input_shapes") or ()
    yield "concrete", only64
    if any(
        isinstance(size, str) for shape in shapes for size in (shape if isinstance(shape, list | tuple) else [shape])
    ):
        yield "dynamic", only64
    if not only64 and not only32:
        yield "f64", True


def _shapes(case: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [tuple(each) if isinstance(each, list | tuple) else (each,) for each in case.get("input_shapes") or ()]


def _sizes(shape: tuple[Any, ...], named: int = SIZE) -> tuple[int, ...]:
    return tuple(named if isinstance(size, str) else int(size) for size in shape)


def _draw(generator: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    if jnp.issubdtype(dtype, jnp.floating):
        numbers: Any = generator.standard_normal(shape) / 4
    elif jnp.issubdtype(dtype, jnp.integer):
        numbers = generator.integers(0, 5, shape)
    elif np.dtype(dtype) == np.bool_:
        numbers = generator.random(shape) > 0.5
    else:
        numbers = generator.standard_normal(shape)
    return np.asarray(numbers).astype(dtype)
