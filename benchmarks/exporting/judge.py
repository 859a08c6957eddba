"""What becomes of one example: the result under plain JAX, and each exporter's model against it."""

from __future__ import annotations

import dataclasses
import functools
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporting.compare import agreement
from exporting.examples import Example, collect

# The size of named dimensions when a model runs; it was exported at examples.SIZE.
OTHER_SIZE = 5


@dataclasses.dataclass
class Verdict:
    """`status` is ok, wrong, export error, runtime error, timeout, crash or not yet; for JAX itself ok or error."""

    status: str
    detail: str = ""
    error: float = 0.0
    types: str = ""
    nodes: int = 0
    seconds: float = 0.0


@dataclasses.dataclass
class Reference:
    """Arguments and results under plain JAX; `how` is jit, or eager where a function cannot be traced."""

    arguments: list[NDArray[Any]]
    results: list[NDArray[Any]]
    how: str


def examples() -> dict[str, Example]:
    """All examples, with nothing of JAX left replaced; the same in every process."""
    import equinox  # noqa: F401
    import flax.linen
    import flax.nnx  # noqa: F401
    import jax.scipy.linalg  # noqa: F401

    from exporting.plain import Plain

    random.seed(0)
    np.random.seed(0)
    plain = Plain()
    collected = collect()
    plain.restore()
    return collected


def patched_examples() -> dict[str, Example]:
    """All examples, as jax2onnx finds them: with what its plugins replaced."""
    random.seed(0)
    np.random.seed(0)
    return collect()


def reference(every: dict[str, Example], name: str) -> Reference | Verdict:
    """What JAX gives, or why it gives nothing."""
    import jax

    example = every[name]
    start = time.perf_counter()
    try:
        function, arguments = example.build(), example.arguments(OTHER_SIZE if example.symbolic else None)
        call = functools.partial(_call, function, example.keywords)
        with jax.enable_x64(example.x64):
            try:
                results, how = jax.jit(call)(*arguments), "jit"
            except Exception:
                results, how = call(*map(jax.numpy.asarray, arguments)), "eager"
            return Reference(arguments, [np.asarray(result) for result in jax.tree.leaves(results)], how)
    except Exception as error:
        return Verdict("error", summary(error), seconds=time.perf_counter() - start)
    finally:
        jax.clear_caches()


def _call(function: Callable[..., Any], keywords: dict[str, Any], *arguments: Any) -> Any:
    return function(*arguments, **keywords)


def judge(every: dict[str, Example], name: str, exporter: str, expected: Reference) -> Verdict:
    """The model that an exporter writes, run by onnxruntime as users run it."""
    import jax

    from exporting.exporters import EXPORTERS, NotYet

    example = every[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        start = time.perf_counter()
        try:
            with jax.enable_x64(example.x64):
                EXPORTERS[exporter].example(example, path)
        except NotYet:
            return Verdict("not yet")
        except Exception as error:
            return Verdict("export error", summary(error), seconds=time.perf_counter() - start)
        finally:
            jax.clear_caches()
        seconds = time.perf_counter() - start
        verdict = _run(path, example, exporter, expected)
        if verdict.status != "ok":
            # onnxruntime's own optimizations may be at fault.
            unoptimized = _run(path, example, exporter, expected, optimized=False)
            verdict.detail += " (ok without onnxruntime's optimizations)" if unoptimized.status == "ok" else ""
        return dataclasses.replace(verdict, seconds=seconds, nodes=_nodes(path))


def _run(path: Path, example: Example, exporter: str, expected: Reference, optimized: bool = True) -> Verdict:
    from exporting.exporters import EXPORTERS
    from exporting.runtime import feeds, run, session

    try:
        arrays, results, named = EXPORTERS[exporter].layouts(example, expected.arguments)
        model = session(path, optimized)
        found = results(run(model, feeds(model, arrays, named)))
    except Exception as error:
        return Verdict("runtime error", summary(error))
    agreed = agreement(found, expected.results)
    return Verdict("wrong" if agreed.fault else "ok", agreed.fault, agreed.error, agreed.types)


def _nodes(path: Path) -> int:
    from exporting.size import nodes

    return nodes(path)


def summary(error: Exception) -> str:
    """One line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
