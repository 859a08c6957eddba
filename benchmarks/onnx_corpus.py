"""Every forward and decode module of a corpus as ONNX, against XLA.

    python benchmarks/onnx_corpus.py --corpus DIR [--match gpt2] [--kinds fwd,decode] [--float64] [--json FILE]

DIR holds StableHLO modules and a manifest.json that says the kind of each. Each is exported at its own shapes, run by
onnxruntime on random inputs and compared with XLA: `error` is the largest difference relative to the scale of each
result. With --float64 columns tell how far XLA itself and the model are from a float64 run: what differs from XLA
but is at most twice as far from float64 is "as near". The last line counts.
Exits with status 1 if a model is wrong or does not run; what is refused has a reason, printed below.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path

from exporting.modules import Outcome, outcome
from exporting.race import nothing
from exporting.worker import Crashed, Worker
from rich.console import Console
from rich.progress import track
from rich.table import Table

BAD = ("wrong", "failed", "runtime error", "crash", "timeout")


def main() -> int:
    arguments = parse()
    worker = Worker(nothing, 0)
    entries = [
        entry
        for entry in json.loads((arguments.corpus / "manifest.json").read_text())
        if entry["kind"] in arguments.kinds and arguments.match in entry["file"]
    ]
    outcomes = {}
    for entry in track(entries, "modules", console=Console(stderr=True)):
        outcomes[entry["file"]] = attempt(worker, arguments.corpus / entry["file"], arguments)
    worker.stop()
    report(Console(width=150), outcomes)
    if arguments.json:
        rows = [{"file": file, **dataclasses.asdict(each)} for file, each in outcomes.items()]
        arguments.json.write_text(json.dumps(rows, indent=1))
    return int(any(each.status in BAD for each in outcomes.values()))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, metavar="DIR")
    parser.add_argument("--match", default="", help="only files whose name holds this")
    parser.add_argument("--kinds", default="fwd,decode", type=lambda text: text.split(","))
    parser.add_argument("--float64", action="store_true", help="measure XLA's own error too")
    parser.add_argument("--seconds", type=float, default=300.0, help="for one module")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it there too")
    arguments = parser.parse_args()
    if not (arguments.corpus / "manifest.json").is_file():
        parser.error(f"{arguments.corpus} has no manifest.json; name a folder of modules with their kinds")
    return arguments


def attempt(worker: Worker, path: Path, arguments: argparse.Namespace) -> Outcome:
    try:
        found = worker.call(outcome, path, arguments.float64, seconds=arguments.seconds)
    except TimeoutError as error:
        return Outcome("timeout", str(error))
    except Crashed as error:
        return Outcome("crash", str(error))
    assert isinstance(found, Outcome)
    return found


def report(console: Console, outcomes: dict[str, Outcome]) -> None:
    table = Table("module", "status", "error", "XLA's", "own", "nodes", "KiB", "export s")
    for file, each in sorted(outcomes.items()):
        numbers = (
            f"{each.error:.1e}",
            f"{each.xla_error:.1e}",
            f"{each.own_error:.1e}",
            str(each.nodes),
            f"{each.kib:.0f}",
            f"{each.seconds:.2f}",
        )
        table.add_row(file, each.status, *("" if text in ("nan", "0") else text for text in numbers))
    console.print(table)
    for file, each in outcomes.items():
        if each.status != "ok":
            line = f"{file}: {each.status}: {each.detail}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    counts = Counter(each.status for each in outcomes.values())
    good = counts["ok"] + counts["as near"]
    share = good / max(1, len(outcomes))
    console.print(f"{good} of {len(outcomes)} ok or as near ({share:.1%})", dict(counts), highlight=False)


if __name__ == "__main__":
    sys.exit(main())
