"""Random programs, half of them not attention, raised, lowered and judged.

    python benchmarks/fuzz_attention.py --programs 20000 --seed 0 --jobs 2 --log fuzz.jsonl

Raising must change nothing, and lowering for the CPU must be sound against float64 on ordinary and adversarial inputs
(test/attention_fuzz). Prints a table and, for what fails, the simplest program that still does, as Python. With --log,
finished batches are written there and a later run of the same seed goes on behind them. Exits with status 1 if a
program failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test"))

from attention_fuzz import BATCH, Choices, Verdict, batch, check_batch, choices, smallest, write

LABELS = ("attention", "not attention")
COLUMNS = ("programs", "raised", "refused", "silent", "lowered", "changed", "unsound")
# Compiling leaves memory behind; a worker is replaced after as many batches.
BATCHES_PER_WORKER = 25


@dataclass
class Row:
    """What became of one batch: counts by label and column, reasons of refusals, and the numbers of what failed."""

    number: int
    counts: dict[str, dict[str, int]]
    reasons: dict[str, int]
    failed: dict[int, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    aborted: bool = False


def run(seed: int, number: int) -> Row:
    start = time.perf_counter()
    verdicts = check_batch(batch(seed, number), seed)
    counts: dict[str, Counter[str]] = {label: Counter() for label in LABELS}
    for verdict in verdicts:
        label = "attention" if verdict.program.choices.is_attention else "not attention"
        counts[label].update(fates(verdict))
    reasons = Counter(reason for verdict in verdicts for reason in verdict.missed)
    failed = {i: said(verdict) for i, verdict in enumerate(verdicts) if verdict.failed}
    return Row(number, {k: dict(v) for k, v in counts.items()}, dict(reasons), failed, time.perf_counter() - start)


def fates(verdict: Verdict) -> list[str]:
    """The columns in which a program counts."""
    which = {
        "programs": True,
        "raised": verdict.raised > 0,
        "refused": bool(verdict.missed),
        "silent": not verdict.raised and not verdict.missed,
        "lowered": verdict.lowered > 0,
        "changed": verdict.changed,
        "unsound": bool(verdict.unsound),
    }
    return [column for column in COLUMNS if which[column]]


def said(verdict: Verdict) -> list[str]:
    return ["raising changed it"] * verdict.changed + verdict.unsound


def fails(seed: int, tried: Choices) -> bool:
    return check_batch([write(tried)], seed)[0].failed


def rows(seed: int, numbers: list[int], jobs: int) -> Iterator[Row]:
    """The rows as they come. A batch on which XLA aborts takes its process along: what is left starts again, alone."""
    left = sorted(numbers)
    alone = False
    while left:
        some = left[:1] if alone else left[: jobs * BATCHES_PER_WORKER]
        found = set()
        for row in _pooled(seed, some, jobs):
            found.add(row.number)
            yield row
        if alone and not found:
            yield Row(left[0], {label: {} for label in LABELS}, {}, aborted=True)
            found = set(some)
        alone = len(found) < len(some)
        left = [number for number in left if number not in found]


def _pooled(seed: int, numbers: list[int], jobs: int) -> Iterator[Row]:
    """Rows until a process dies, from new processes."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        pending = [pool.submit(run, seed, number) for number in numbers]
        with contextlib.suppress(BrokenProcessPool):
            for future in as_completed(pending):
                yield future.result()


def known(log: Path | None, seed: int) -> dict[int, Row]:
    """The rows of `log`, by number."""
    if log is None or not log.exists():
        return {}
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    found = [Row(**entry["row"]) for entry in entries if entry["seed"] == seed]
    return {row.number: row for row in found}


def table(found: Iterable[Row], seconds: float) -> Table:
    out = Table("", *COLUMNS)
    total: Counter[str] = Counter()
    found = list(found)
    for label in LABELS:
        counts: Counter[str] = Counter()
        for row in found:
            counts.update(row.counts[label])
        total.update(counts)
        out.add_row(label, *(str(counts[column]) for column in COLUMNS))
    out.add_row("all", *(str(total[column]) for column in COLUMNS))
    aborted = sum(row.aborted for row in found)
    speed = f"{seconds:.0f} s, {total['programs'] / max(seconds, 1e-9):.1f} programs a second"
    out.caption = f"{speed}; XLA aborted on {aborted} batches" if aborted else speed
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=2000, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of programs and inputs (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes (default: 1)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep finished batches there, and go on from them")
    parser.add_argument("--smallest", type=int, default=5, metavar="K", help="simplify as many failures (default: 5)")
    parser.add_argument("--reasons", action="store_true", help="list why programs were refused, with counts")
    args = parser.parse_args()

    console = Console(width=110)
    wanted = range(-(-args.programs // BATCH))
    done = {number: row for number, row in known(args.log, args.seed).items() if number in wanted}
    # What was done before took about as long as its batches side by side.
    earlier = sum(row.seconds for row in done.values()) / args.jobs
    start = time.perf_counter()
    for row in rows(args.seed, [number for number in wanted if number not in done], args.jobs):
        done[row.number] = row
        for i, reasons in row.failed.items():
            console.print(f"batch {row.number}, program {i}: {'; '.join(reasons)}", markup=False, soft_wrap=True)
        if args.log:
            with args.log.open("a") as log:
                log.write(json.dumps({"seed": args.seed, "row": asdict(row)}) + "\n")
    console.print(table(done.values(), time.perf_counter() - start + earlier))
    if args.reasons:
        counted: Counter[str] = Counter()
        for row in done.values():
            counted.update(row.reasons)
        for reason, count in counted.most_common():
            console.print(f"{count:6} {reason}", markup=False, soft_wrap=True)

    # JSON has made the numbers of programs strings.
    failed = [(row.number, int(i), said) for row in done.values() for i, said in row.failed.items()]
    for number, i, reasons in failed[: args.smallest]:
        simple = smallest(choices(args.seed, number, i), partial(fails, args.seed))
        console.print(f"\nseed {args.seed}, batch {number}, program {i}: {'; '.join(reasons)}", markup=False)
        console.print(f"smallest: {simple}\n{write(simple).text}", markup=False, highlight=False, soft_wrap=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
