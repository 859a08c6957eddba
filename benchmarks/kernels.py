"""Every CPU kernel over its shapes against XLA, torch and onnxruntime.

    python benchmarks/kernels.py [--threads 2] [--only "^attention float32"] [--quick] [--json F] [--plot F]

Needs the extra "benchmarks". Each peer runs in a process of its own, all pinned to the same cores, in turn, a round at
a time: `xla` is the formula in jnp under jax.jit, `zenith` ours. A row has the median and the minimum of the rounds in
milliseconds, the ratio of each peer's median to ours (above 1 ours is faster), and our share of the machine's peak, the
arithmetic's or the memory's (benchmarks/peaks.py). The summary has geometric means and the worst ratio of each kernel.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cases import Case, cases, family_of
from peaks import peaks
from rich.console import Console
from rich.table import Table

PEERS = {
    "zenith": "zenith",
    "xla": "xla",
    "torch": "torch_eager",
    "torch.compile": "torch_compiled",
    "onnxruntime": "onnxruntime_cpu",
}


# Whether a result of some megabytes lies in memory that malloc kept or in fresh pages, which cost as much as a kernel,
# depends on what was freed before. Here it keeps all, for every peer.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}


class Peer:
    """A worker process."""

    def __init__(self, module: str, cores: Sequence[int]) -> None:
        command = [sys.executable, "-m", "peers.worker", module, ",".join(map(str, cores))]
        environment = {**os.environ, **_KEEP_MEMORY, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path[1:]])
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"refused": f"the process ended with status {self.process.wait()}"}


@contextmanager
def started(module: str, cores: Sequence[int]) -> Iterator[Peer]:
    peer = Peer(module, cores)
    try:
        yield peer
    finally:
        peer.process.kill()
        peer.process.wait()


def measure(case: Case, peers: dict[str, Peer], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each peer that has the case, a round at a time."""
    times: dict[str, list[float]] = {}
    for name, peer in peers.items():
        answer = peer.ask(prepare=str(case))
        if "ready" in answer:
            times[name] = []
        elif name in ("zenith", "xla"):
            print(f"{case}: {name}: {answer['refused']}", file=sys.stderr)
    for _ in range(rounds):
        for name, taken in times.items():
            taken.append(peers[name].ask(time=seconds)["ms"])
    return times


def share(case: Case, milliseconds: float, ceilings: dict[str, float]) -> float:
    """The share of the nearer ceiling that we reach."""
    family = family_of(case)
    unit = ceilings["bfloat16"] if case.dtype == "bfloat16" and ceilings["bfloat16"] else ceilings["float32"]
    floor = max(family.flops(case) / (unit * 1e9), family.bytes(case) / (ceilings["copy"] * 1e9))
    return floor * 1e3 / milliseconds


def row(case: Case, times: dict[str, list[float]], ceilings: dict[str, float]) -> dict[str, Any]:
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    ours = medians.get("zenith", math.nan)
    return {
        "kernel": case.kernel,
        "dtype": case.dtype,
        "case": str(case),
        "sizes": dict(case.sizes),
        "median": medians,
        "minimum": {name: min(taken) for name, taken in times.items()},
        "ratio": {name: median / ours for name, median in medians.items() if name != "zenith"},
        "share": share(case, ours, ceilings),
    }


def detail(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Table:
    table = Table("case", *(f"{name} ms" for name in names), *(f"{n}/zenith" for n in names[1:]), "share of peak")
    for each in rows:
        table.add_row(
            each["case"],
            *(f"{each['median'][n]:.3f} ({each['minimum'][n]:.3f})" if n in each["median"] else "-" for n in names),
            *(f"{each['ratio'][n]:.2f}" if n in each["ratio"] else "-" for n in names[1:]),
            f"{100 * each['share']:.0f} %" if each["share"] else "-",
        )
    return table


def summary(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Geometric mean and worst of the ratios for each kernel and dtype."""
    out = []
    for kernel, dtype in dict.fromkeys((each["kernel"], each["dtype"]) for each in rows):
        group = [each for each in rows if (each["kernel"], each["dtype"]) == (kernel, dtype)]
        line: dict[str, Any] = {"kernel": kernel, "dtype": dtype, "cases": len(group)}
        for name in names[1:]:
            ratios = [each["ratio"][name] for each in group if name in each["ratio"]]
            line[name] = (statistics.geometric_mean(ratios), min(ratios)) if ratios else None
        out.append(line)
    return out


def summary_table(lines: Sequence[dict[str, Any]], names: Sequence[str]) -> Table:
    table = Table("kernel", "dtype", "cases", *(f"{n}/zenith: mean, worst" for n in names[1:]))
    for line in lines:
        cells = [f"{line[n][0]:.2f}, {line[n][1]:.2f}" if line[n] else "-" for n in names[1:]]
        table.add_row(line["kernel"], line["dtype"], str(line["cases"]), *cells)
    return table


def plot(lines: Sequence[dict[str, Any]], names: Sequence[str], path: str) -> None:
    """Bars of the geometric means, one group a kernel; 1 is our own time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.3 * len(lines)), layout="constrained")
    height = 0.8 / max(len(names) - 1, 1)
    for i, name in enumerate(names[1:]):
        places = [y + (i + 0.5) * height - 0.4 for y in range(len(lines))]
        axes.barh(places, [line[name][0] if line[name] else 0 for line in lines], height, label=name)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(lines)), [f"{line['kernel']} {line['dtype']}" for line in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xticks(ticks := [0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12], [f"{tick:g}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("time of the peer / time of zenith_mlir, geometric mean over shapes")
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="cores to pin to, and threads of each peer")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases in whose name it is found")
    parser.add_argument("--peers", default=",".join(PEERS), help="of %(default)s; zenith always runs")
    parser.add_argument("--quick", action="store_true", help="one case of each kernel and dtype")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.05, help="of each peer in a round, at least one call")
    parser.add_argument("--forced", action="store_true", help="kernels also where the cost model leaves it to XLA")
    parser.add_argument("--json", metavar="F", help="write the rows")
    parser.add_argument("--plot", metavar="F", help="write a plot of the summary")
    args = parser.parse_args()

    if args.forced:
        os.environ["ZENITH_CPU_COSTS"] = os.devnull
    from zenith_mlir.kernels.cpu import instruction_set

    chosen = cases(args.only, quick=args.quick)
    cores = sorted(os.sched_getaffinity(0))[: args.threads]
    os.sched_setaffinity(0, cores)
    ceilings = peaks(args.threads)
    names = ["zenith", *(name for name in args.peers.split(",") if name != "zenith")]
    console = Console(width=200 if not sys.stdout.isatty() else None)
    rows = []
    with ExitStack() as stack:
        peers = {name: stack.enter_context(started(PEERS[name], cores)) for name in names}
        versions = {name: peer.ask(describe=True).get("version", "missing") for name, peer in peers.items()}
        peaks_text = ", ".join(f"{name} {value:.0f}" for name, value in ceilings.items())
        console.print(f"cores {cores}; {'; '.join(versions.values())}; peaks (GFLOP/s, GB/s): {peaks_text}")
        for case in chosen:
            times = measure(case, peers, args.rounds, args.seconds)
            if "zenith" in times:
                rows.append(row(case, times, ceilings))
                if args.json:  # after each case, so that an interrupted run keeps what it has
                    report = {
                        "instruction set": instruction_set(),
                        "versions": versions,
                        "peaks": ceilings,
                        "rows": rows,
                    }
                    Path(args.json).write_text(json.dumps(report, indent=1))
                console.print(f"  {case}: " + ", ".join(f"{n} {m:.3f}" for n, m in rows[-1]["median"].items()))
    console.print(detail(rows, names))
    lines = summary(rows, names)
    console.print(summary_table(lines, names))
    if args.plot:
        plot(lines, names, args.plot)


if __name__ == "__main__":
    main()
