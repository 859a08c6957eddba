"""Live models through both exporters: success, numbers, size and speed.

    python benchmarks/onnx_models.py [--match NNX] [--json FILE]

Models of Flax Linen, Flax NNX, Equinox, Haiku, Hugging Face and plain jnp (exporting/models/), in float32 with the
weights in the file, at the exporters' own opset. Each exporter works in a process of its own, jax2onnx in the calling
form of its documentation. `error` is the largest difference from JAX relative to the result's scale, `export` the
faster of two exports in seconds, `ms` a call on onnxruntime's CPU provider on one core, measured by turns in one
process; a ratio is ours to the peer's, of times the median over rounds. Under `better or equal`, times within 3 % are
equal.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from exporting import race
from exporting.size import kibibytes, nodes
from exporting.worker import Crashed, Worker
from rich.console import Console
from rich.progress import track
from rich.table import Table

PEER, OWN = "jax2onnx", "zenith"
SECONDS = 300.0
# What is compared, and how much more still counts as equal.
MEASURES = {"nodes": 1.0, "KiB": 1.01, "export": 1.03, "ms": 1.03}


@dataclasses.dataclass
class Side:
    """What one exporter made of a model; `fault` is empty where it is right."""

    fault: str
    error: float = math.inf
    nodes: float = math.nan
    KiB: float = math.nan
    export: float = math.nan
    ms: float = math.nan


@dataclasses.dataclass
class Row:
    name: str
    peer: Side
    own: Side
    latency: float = math.nan

    def ratio(self, measure: str) -> float:
        if self.peer.fault or self.own.fault:
            return math.nan
        if measure == "ms":
            return self.latency
        return float(getattr(self.own, measure) / getattr(self.peer, measure))


class Bench:
    """A process for JAX and our exporter, one for jax2onnx, which replaces functions of JAX, one for onnxruntime."""

    def __init__(self) -> None:
        self._plain, self._patched = Worker(race.live_models, -1), Worker(race.live_models, -1)
        self._clock = Worker(race.nothing, -1)

    def run(self, name: str) -> Row:
        try:
            return self._run(name)
        except (TimeoutError, Crashed) as trouble:
            return Row(name, Side(f"bench: {trouble}"), Side(f"bench: {trouble}"))

    def _run(self, name: str) -> Row:
        wanted = self._plain.call(race.expected, name, seconds=SECONDS)
        with tempfile.TemporaryDirectory() as folder:
            paths = {exporter: Path(folder) / f"{exporter}.onnx" for exporter in (OWN, PEER)}
            own, peer = (self._side(name, exporter, path, wanted) for exporter, path in paths.items())
            runs = [(side, path) for side, path in zip((own, peer), paths.values(), strict=True) if not side.fault]
            latency = math.nan
            if runs:
                # One that is alone runs against itself.
                times = self._clock.call(race.compete, (runs[0][1], runs[-1][1]), wanted, seconds=SECONDS)
                runs[0][0].ms, runs[-1][0].ms = times.milliseconds
                latency = times.ratio
            return Row(name, peer, own, latency)

    def _side(self, name: str, exporter: str, path: Path, wanted: race.Expected) -> Side:
        worker = self._patched if exporter == PEER else self._plain
        try:
            exported = worker.call(race.export, name, exporter, path, seconds=SECONDS)
            if exported.fault:
                return Side(exported.fault)
            error, fault = self._clock.call(race.check, path, wanted, seconds=SECONDS)
        except (TimeoutError, Crashed) as trouble:
            return Side(f"crash: {trouble}")
        return Side(fault, error, nodes(path), kibibytes(path), exported.seconds)

    def stop(self) -> None:
        for worker in (self._plain, self._patched, self._clock):
            worker.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default="", help="only models whose name holds this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it there too")
    arguments = parser.parse_args()
    console = Console(width=170)
    bench = Bench()
    names = [name for name in race.live_models() if arguments.match in name]
    rows = []
    for name in track(names, "models", console=Console(stderr=True)):
        rows.append(bench.run(name))
        print(rows[-1], file=sys.stderr, flush=True)
    bench.stop()
    console.print(details(rows))
    console.print(summary(rows))
    for row in rows:
        for exporter, side in ((PEER, row.peer), (OWN, row.own)):
            if side.fault and side.fault != "not yet":
                console.print(f"{row.name}: {exporter}: {side.fault}", markup=False, highlight=False, soft_wrap=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    return int(any(row.own.fault not in ("", "not yet") for row in rows))


def details(rows: list[Row]) -> Table:
    """The peer's first, ours second."""
    columns = (f"{what}\n{who}" for what in ("error", *MEASURES) for who in ("peer", "ours"))
    table = Table("model", *columns, "ms\nratio")
    for row in rows:
        sides = (row.peer, row.own)
        cells = [verdict(side) for side in sides]
        cells += [number(getattr(side, measure)) for measure in MEASURES for side in sides]
        table.add_row(row.name, *cells, number(row.ratio("ms")))
    return table


def summary(rows: list[Row]) -> Table:
    table = Table("", *MEASURES)
    ratios: dict[str, list[float]] = {m: [r for row in rows if math.isfinite(r := row.ratio(m))] for m in MEASURES}
    means = (math.exp(sum(map(math.log, r)) / len(r)) if r else math.nan for r in ratios.values())
    equal = (f"{sum(r <= MEASURES[m] for r in rs)} of {len(rs)}" for m, rs in ratios.items())
    table.add_row("geometric mean, ours to the peer's", *map(number, means))
    table.add_row("better or equal", *equal)
    right = {PEER: sum(not row.peer.fault for row in rows), OWN: sum(not row.own.fault for row in rows)}
    table.caption = ", ".join(f"{exporter}: {n} of {len(rows)} right" for exporter, n in right.items())
    return table


def verdict(side: Side) -> str:
    if side.fault:
        return side.fault.split(":")[0] if not math.isfinite(side.error) else f"wrong {side.error:.0e}"
    return f"{side.error:.0e}"


def number(value: Any) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
