"""jax2onnx's own examples through both exporters, against JAX.

    python benchmarks/onnx_examples.py --out FILE [--limit 300] [--family jnp] [--match conv] [--jobs 2]
                                       [--exporters jax2onnx,zenith] [--variants concrete,dynamic,f64] [--seconds 60]

jax2onnx (which must be installed) carries about 1800 test cases; each is run by JAX with nothing replaced, exported,
and the model's results, as onnxruntime gives them, are compared with JAX's (exporting/compare.py). JAX and our exporter
run in one process, jax2onnx in another, because it replaces functions of JAX. FILE gets a line of JSON for each case
and exporter ("jax" for JAX itself) as soon as it is known; what is in it already is not done again, but with --again,
and then the later line counts. --limit takes that many, spread over the families. The table counts, by family, cases
that are ok of those that JAX can run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exporting.examples import VARIANTS, Example
from exporting.judge import Reference, Verdict, examples, judge, patched_examples, reference
from exporting.worker import Crashed, Worker
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import zenith_mlir as zenith

EXPORTERS = ("jax2onnx", "zenith")
JAX = "jax"
UNSETTLED = ("", "wrong", "export error", "runtime error", "timeout", "crash")


class Record:
    """What is known so far, in a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        for row in map(json.loads, lines):
            self.rows[row["name"], row["exporter"]] = row

    def missing(self, name: str, exporters: list[str], again: str) -> list[str]:
        """The exporters that the example still waits for."""
        if self.status(name, JAX) not in ("", "ok"):
            return []
        return [each for each in exporters if self.status(name, each) in (("",) if each != again else UNSETTLED)]

    def status(self, name: str, exporter: str) -> str:
        return str(self.rows.get((name, exporter), {"status": ""})["status"])

    def add(self, example: Example, exporter: str, verdict: Verdict) -> None:
        if verdict.status == "not yet" or (exporter == JAX and self.status(example.name, JAX)):
            return
        about = {"name": example.name, "family": example.family, "component": example.component, "exporter": exporter}
        row = {**about, **dataclasses.asdict(verdict)}
        with self._lock:
            self.rows[example.name, exporter] = row
            with self._path.open("a") as file:
                print(json.dumps(row), file=file)


class Lane:
    """Two processes that take one example at a time: JAX with our exporter, and jax2onnx."""

    def __init__(self, number: int, seconds: float) -> None:
        self._plain, self._patched = Worker(examples, number), Worker(patched_examples, number)
        self._seconds = seconds

    def run(self, name: str, exporters: list[str]) -> Iterator[tuple[str, Verdict]]:
        expected = self._guarded(self._plain, reference, name)
        if isinstance(expected, Verdict):
            yield JAX, expected
            return
        yield JAX, Verdict("ok", expected.how)
        for exporter in exporters:
            worker = self._patched if exporter == "jax2onnx" else self._plain
            yield exporter, self._guarded(worker, judge, name, exporter, expected)

    def _guarded(self, worker: Worker, function: Any, *arguments: Any) -> Reference | Verdict | Any:
        try:
            return worker.call(function, *arguments, seconds=self._seconds)
        except TimeoutError as error:
            return Verdict("timeout", str(error))
        except Crashed as error:
            return Verdict("crash", str(error))

    def stop(self) -> None:
        self._plain.stop()
        self._patched.stop()


def main() -> int:
    arguments = parse()
    every = patched_examples()
    chosen = choose(every, arguments)
    record = Record(arguments.out)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("examples", total=len(chosen))
        todo = iter(chosen)
        lanes = [
            threading.Thread(target=work, args=(n, todo, every, record, arguments, lambda: progress.advance(task)))
            for n in range(arguments.jobs)
        ]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
    report(Console(width=150), record, chosen, arguments.exporters)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--limit", type=int, help="so many examples, spread over the families")
    parser.add_argument("--family", default="", help="only families whose name holds this")
    parser.add_argument("--match", default="", help="only examples whose name holds this")
    parser.add_argument("--exporters", default=",".join(EXPORTERS), type=lambda text: text.split(","))
    parser.add_argument("--again", default="", metavar="EXPORTER", help="do what it did not get right once more")
    parser.add_argument("--variants", default="concrete", type=lambda text: text.split(","), help=", ".join(VARIANTS))
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--seconds", type=float, default=60.0, help="for one example and exporter")
    arguments = parser.parse_args()
    for given, known in ((arguments.exporters, EXPORTERS), (arguments.variants, VARIANTS)):
        if unknown := sorted(set(given) - set(known)):
            parser.error(f"unknown: {unknown[0]}; choose from {', '.join(known)}")
    return arguments


def choose(every: dict[str, Example], arguments: argparse.Namespace) -> list[str]:
    matching = [
        name
        for name, example in every.items()
        if arguments.family in example.family and arguments.match in name and example.variant in arguments.variants
    ]
    if arguments.limit is None or arguments.limit >= len(matching):
        return matching
    families: dict[str, list[str]] = {}
    for name in matching:
        families.setdefault(every[name].family, []).append(name)
    share = arguments.limit / len(matching)
    return [name for names in families.values() for name in spread(names, max(1, round(share * len(names))))]


def spread(names: list[str], count: int) -> list[str]:
    return [names[i * len(names) // count] for i in range(count)]


def work(
    number: int, todo: Iterator[str], every: dict[str, Example], record: Record, arguments: Any, done: Any
) -> None:
    lane = Lane(number, arguments.seconds)
    present = [exporter for exporter in arguments.exporters if exporter != "zenith" or hasattr(zenith, "export_onnx")]
    for name in todo:
        if missing := record.missing(name, present, arguments.again):
            for exporter, verdict in lane.run(name, missing):
                record.add(every[name], exporter, verdict)
        done()
    lane.stop()


def report(console: Console, record: Record, chosen: list[str], exporters: list[str]) -> None:
    rows = [row for (name, _), row in record.rows.items() if name in set(chosen)]
    runs = Counter(row["family"] for row in rows if row["exporter"] == JAX and row["status"] == "ok")
    table = Table("family", "JAX runs", *exporters)
    ok = Counter((row["family"], row["exporter"]) for row in rows if row["status"] == "ok")
    tried = {row["exporter"] for row in rows}
    for family in sorted(runs):
        cells = (str(ok[family, exporter]) if exporter in tried else "not yet" for exporter in exporters)
        table.add_row(family, str(runs[family]), *cells)
    totals = (sum(n for (_, e), n in ok.items() if e == exporter) for exporter in exporters)
    table.add_section()
    table.add_row("all", str(runs.total()), *(f"{n} ({n / max(1, runs.total()):.1%})" for n in totals))
    console.print(table)
    outcomes = Counter((row["exporter"], row["status"]) for row in rows)
    for (exporter, status), n in sorted(outcomes.items()):
        console.print(f"{exporter}: {status} {n}", highlight=False)
    for row in sorted(rows, key=lambda row: (row["exporter"], row["status"])):
        if row["status"] != "ok":
            line = f"{row['exporter']}: {row['status']}: {row['name']}: {row['detail']}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
