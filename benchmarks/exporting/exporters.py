"""The two exporters, each as its users call it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporting.examples import SIZE, Example

Arrays = list[np.ndarray]
Layouts = tuple[Arrays, Callable[[Arrays], Arrays], dict[str, Any]]


class NotYet(Exception):
    """There is no such exporter here."""


@dataclass(frozen=True)
class Exporter:
    """`example` exports an example to a path; `function` a function with example arguments; `layouts` gives, for an
    example, what the model takes, what makes JAX's results of its results, and what it takes by name.
    """

    example: Callable[[Example, Path], None]
    function: Callable[[Callable[..., Any], Sequence[Any], Path, Any], None]
    layouts: Callable[[Example, Arrays], Layouts]


def _peer_example(example: Example, path: Path) -> None:
    from jax2onnx import to_onnx

    case = example.case
    to_onnx(
        example.build(),
        example.specs(),
        example.keywords,
        example.name,
        case.get("opset_version", 23),
        enable_double_precision=example.x64,
        return_mode="file",
        output_path=path,
        export_mode="web",  # one file, as the other writes
        **{key: case.get(key) for key in ("inputs_as_nchw", "outputs_as_nchw", "input_names", "output_names")},
        normalization_mode=case.get("normalization_mode", "auto"),
    )


def _peer_function(function: Callable[..., Any], arguments: Sequence[Any], path: Path, params: Any = None) -> None:
    import jax
    from jax2onnx import to_onnx

    if params is not None:
        function = functools.partial(function, params)
    specs = [jax.ShapeDtypeStruct(np.shape(each), np.asarray(each).dtype) for each in arguments]
    to_onnx(function, specs, return_mode="file", output_path=path, export_mode="web")


def _peer_layouts(example: Example, arrays: Arrays) -> Layouts:
    """The examples that ask for NCHW outside are NHWC in JAX."""
    case = example.case
    inputs, outputs = case.get("inputs_as_nchw") or (), case.get("outputs_as_nchw") or ()
    first = [a.transpose(0, 3, 1, 2) if i in inputs and a.ndim == 4 else a for i, a in enumerate(arrays)]

    def last(found: Arrays) -> Arrays:
        return [a.transpose(0, 2, 3, 1) if i in outputs and a.ndim == 4 else a for i, a in enumerate(found)]

    return first, last, example.keywords


def _own_example(example: Example, path: Path) -> None:
    function = functools.partial(example.build(), **example.keywords) if example.keywords else example.build()
    options = {"dynamic": example.symbols()} if example.symbolic else {}
    _own_function(function, example.arguments(SIZE), path, **options)


def _own_function(
    function: Callable[..., Any], arguments: Sequence[Any], path: Path, params: Any = None, **options: Any
) -> None:
    import zenith_mlir as zenith

    export = getattr(zenith, "export_onnx", None)
    if export is None:
        raise NotYet
    export(function, tuple(arguments), path, params=params, validate=False, **options)


def _own_layouts(example: Example, arrays: Arrays) -> Layouts:
    return arrays, lambda found: found, {}


EXPORTERS = {
    "jax2onnx": Exporter(_peer_example, _peer_function, _peer_layouts),
    "zenith": Exporter(_own_example, _own_function, _own_layouts),
}
