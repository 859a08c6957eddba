"""Both exporters on one live model: what they write, and how fast onnxruntime runs it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporting.judge import summary
from exporting.models import Model, models

# A round of a model takes at least this long; there are so many rounds, each of one model and then of the other.
ROUND_SECONDS, ROUNDS = 0.02, 25


@dataclass(frozen=True)
class Exported:
    """`seconds` of the faster of two exports; `fault` says why there is none."""

    seconds: float = 0.0
    fault: str = ""


@dataclass(frozen=True)
class Expected:
    arguments: list[NDArray[Any]]
    results: list[NDArray[Any]]


@dataclass(frozen=True)
class Times:
    """Milliseconds of a call of each model, and the median over rounds of the first's to the second's."""

    milliseconds: tuple[float, float]
    ratio: float


def live_models() -> dict[str, Model]:
    return models()


def nothing() -> None:
    return None


def expected(every: dict[str, Model], name: str) -> Expected:
    """What JAX gives."""
    import jax

    built = every[name].build()
    results = jax.jit(lambda *arguments: built.peer(*arguments))(*built.arguments)
    return Expected(list(map(np.asarray, built.arguments)), list(map(np.asarray, jax.tree.leaves(results))))


def export(every: dict[str, Model], name: str, exporter: str, path: Path) -> Exported:
    import jax

    from exporting.exporters import EXPORTERS, NotYet

    built = every[name].build()
    program = (built.peer, None) if exporter == "jax2onnx" else (built.own, built.params)

    def once() -> float:
        jax.clear_caches()
        start = time.perf_counter()
        EXPORTERS[exporter].function(program[0], built.arguments, path, program[1])
        return time.perf_counter() - start

    try:
        return Exported(min(once(), once()))
    except NotYet:
        return Exported(fault="not yet")
    except Exception as error:
        return Exported(fault=f"export: {summary(error)}")


def check(_: None, path: Path, wanted: Expected) -> tuple[float, str]:
    """The largest error relative to the scale, and what is wrong."""
    from exporting.compare import agreement
    from exporting.runtime import feeds, run, session

    try:
        model = session(path)
        agreed = agreement(run(model, feeds(model, wanted.arguments)), wanted.results)
    except Exception as error:
        return np.inf, f"runtime: {summary(error)}"
    return agreed.error, agreed.fault


def compete(_: None, paths: tuple[Path, Path], wanted: Expected) -> Times:
    """By turns, so that a slow moment of the machine meets both."""
    from exporting.runtime import feeds, session

    calls = []
    for path in paths:
        model = session(path)
        given = feeds(model, wanted.arguments)
        calls.append(lambda model=model, given=given: model.run_with_ort_values(None, given))
    counts = [max(1, round(ROUND_SECONDS / min(_mean(call, 3) for _ in range(3)))) for call in calls]
    rounds = [[_mean(call, count) for call, count in zip(calls, counts, strict=True)] for _ in range(ROUNDS)]
    first, second = (statistics.median(each) * 1e3 for each in zip(*rounds, strict=True))
    return Times((first, second), statistics.median(a / b for a, b in rounds))


def _mean(call: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count
