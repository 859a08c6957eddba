"""Measures what the cost model (kernels/cpu/costs.py) reckons with, and writes its table.

    python benchmarks/calibrate.py [--only "attention"] [--output kernels/cpu/costs.json]

For each kernel, shape and dtype of benchmarks/cases the kernel and XLA's code are timed, in processes of their own and
in turn, on one core. To each side of each op a straight line through its counts of work is fitted, nanoseconds all of
them positive, so that relative errors are small; of the two calls what both take is JAX's, and taken off. What it
writes takes the place of this instruction set's lines for the ops and dtypes that were measured. Printed for each: how
far the lines are off, how often they choose right, the worst choice, and the gain over always fusing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from cases import Case, cases, family_of
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls

from kernels import PEERS, Peer, measure, started
from zenith_mlir.dialects.implementation import Work

_TABLE = Path(__file__).parents[1] / "kernels/cpu/costs.json"


def fit(counts: list[dict[str, float]], nanoseconds: list[float]) -> dict[str, float]:
    """Of each count the nanoseconds that one takes, at least 0; relative errors squared are least."""
    terms = sorted({term for each in counts for term in each})
    rows = np.array([[each.get(term, 0.0) for term in terms] for each in counts])
    weights, _ = nnls(rows / np.array(nanoseconds)[:, None], np.ones(len(nanoseconds)))
    return {term: float(f"{weight:.4g}") for term, weight in zip(terms, weights, strict=True) if weight > 0}


def reckon(line: dict[str, float], counts: dict[str, float]) -> float:
    return sum(line.get(term, 0.0) * count for term, count in counts.items())


def measured(pattern: str, rounds: int, seconds: float) -> dict[tuple[str, str], list]:
    """For each op and dtype the work and the nanoseconds of either side, a case each."""
    found = defaultdict(list)
    core = [min(os.sched_getaffinity(0))]
    with ExitStack() as stack:
        peers: dict[str, Peer] = {name: stack.enter_context(started(PEERS[name], core)) for name in ("zenith", "xla")}
        for case in cases(pattern):
            name, work = work_of(case)
            times = measure(case, peers, rounds, seconds) if work else {}
            if work and len(times) == 2:
                kernel, xla = (statistics.median(times[side]) * 1e6 for side in ("zenith", "xla"))
                found[name, work.dtype].append((work, kernel, xla))
                print(f"{case}: kernel {kernel / 1e3:.1f} us, XLA {xla / 1e3:.1f} us", file=sys.stderr)
    return found


def read(rows: list[dict]) -> dict[tuple[str, str], list]:
    """The same from what benchmarks/kernels.py wrote."""
    by_name = {str(case): case for case in cases()}
    found = defaultdict(list)
    for row in rows:
        name, work = work_of(by_name[row["case"]])
        if work and "xla" in row["median"]:
            kernel, xla = (row["median"][side] * 1e6 for side in ("zenith", "xla"))
            found[name, work.dtype].append((work, kernel, xla))
    return found


def work_of(case: Case) -> tuple[str, Work | None]:
    """The op that a case measures, and its work as the cost model counts it."""
    from zenith_mlir.dialects.table import OPS

    request = family_of(case).request
    if request is None:
        return "", None
    name, asked = request(case)
    (row,) = (row for row in OPS[name].implementations if row.platform == "cpu")
    return name, row.work(asked) if row.work else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="REGEX", help="cases in whose name it is found")
    parser.add_argument("--output", default=str(_TABLE), metavar="F", help="the table to change (default: %(default)s)")
    parser.add_argument(
        "--measured", metavar="F", help="fit to the rows that kernels.py wrote with --json and --forced"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.03)
    args = parser.parse_args()

    from zenith_mlir.kernels.cpu import costs, instruction_set

    isa = instruction_set()
    if args.measured:
        report = json.loads(Path(args.measured).read_text())
        isa, found = report["instruction set"], read(report["rows"])
    else:
        os.environ[costs.VARIABLE] = os.devnull  # nobody's lines: every kernel is measured
        found = measured(args.only, args.rounds, args.seconds)
    path = Path(args.output)
    table = json.loads(path.read_text()) if path.exists() else {}
    report = Table(
        "op", "dtype", "cases", "kernel off by", "XLA off by", "right", "worst choice", "against always fusing"
    )
    for (name, dtype), rows in sorted(found.items()):
        kernel = fit([work.kernel for work, _, _ in rows], [time for _, time, _ in rows])
        xla = fit([work.xla for work, _, _ in rows], [time for _, _, time in rows])
        report.add_row(name, dtype, str(len(rows)), *judge(rows, kernel, xla))
        shared = min(kernel.get("call", 0.0), xla.get("call", 0.0))
        for line in (kernel, xla):
            line["call"] = round(line.get("call", 0.0) - shared, 1)
        table.setdefault(isa, {}).setdefault(name, {})[dtype] = {"kernel": kernel, "xla": xla}
    Console(width=160).print(report)
    path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


def judge(rows: list, kernel: dict[str, float], xla: dict[str, float]) -> list[str]:
    """Geometric mean of the lines' errors; how often the cheaper side is chosen, and the worst and mean loss."""
    ours = [(reckon(kernel, work.kernel), reckon(xla, work.xla), time, other) for work, time, other in rows]
    off = [statistics.geometric_mean(max(a / b, b / a) for a, b in pairs) for pairs in (
        [(k, time) for k, _, time, _ in ours], [(x, other) for _, x, _, other in ours],
    )]  # fmt: skip
    losses = [(time if k <= 1.1 * x else other) / min(time, other) for k, x, time, other in ours]
    right = sum(loss <= 1.05 for loss in losses)
    gain = statistics.geometric_mean(time / (time if k <= 1.1 * x else other) for k, x, time, other in ours)
    return [*(f"{each:.2f}x" for each in off), f"{right}/{len(rows)}", f"{max(losses):.2f}x", f"{gain:.2f}x"]


if __name__ == "__main__":
    main()
