"""Which sites of a corpus the raising passes find, against its ground truth.

    python benchmarks/coverage.py --corpus DIR [--kinds all] [--certify] [--memory] [--json FILE]

DIR holds StableHLO modules and a manifest.json with, for each file, `ground_truth`: the number of sites of each kind
(null where nobody is sure). Prints one row a file, one a source and the totals: sites raised of those that there are,
`+n` if n were raised that are none. The column `gradients` counts, in modules of kind "train", gradients raised, of as
many sites as there are of the kinds that have one.

--certify runs every distinct site against float64. --memory compiles the train modules as they are and after `default`
and prints their temporary memory. Exits with status 1 if a site was raised where the truth says there is none more, or
if one is unsound.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import zenith_mlir as zenith

# Kinds of the manifest and the operations whose remarks answer for them.
KINDS = {
    "attention": ("zenith.attention",),
    "layernorm": ("zenith.layer_norm",),
    "rmsnorm": ("zenith.rms_norm",),
    "groupnorm": ("zenith.group_norm",),
    "gelu": ("zenith.gelu",),
    "silu": ("zenith.silu", "zenith.swiglu"),
    "softmax_xent": ("zenith.cross_entropy",),
    "rotary": ("zenith.rotary",),
    "conv_bn": ("stablehlo.convolution",),
}
FINDING = ("raise-", "fold-batchnorm")


@dataclass
class Row:
    """What was found in one file, by kind; `truth` lacks the kinds that nobody is sure of."""

    file: str
    source: str
    group: str
    truth: dict[str, int]
    raised: dict[str, int]
    gradients: dict[str, int] = field(default_factory=dict)
    certified: int = 0
    unsound: list[str] = field(default_factory=list)
    temporaries: tuple[float, float] | None = None
    reasons: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def extra(self, kind: str) -> int:
        return max(0, self.raised[kind] - self.truth[kind]) if kind in self.truth else 0

    @property
    def trains(self) -> bool:
        return self.group == "train"


def measure(path: Path, entry: dict[str, Any], certify: bool, memory: bool) -> Row:
    module = zenith.load(path)
    start = time.perf_counter()
    raised = module.run("default,fold-batchnorm", target="none")
    seconds = time.perf_counter() - start
    passed = Counter(r.op for r in raised.remarks if r.kind == "passed" and r.pass_name.startswith(FINDING))
    row = Row(
        file=path.name,
        source=entry["source"],
        group="train" if entry["kind"] == "train" else "forward and decode",
        truth={kind: n for kind in KINDS if (n := entry["ground_truth"].get(kind)) is not None},
        raised={kind: sum(passed[name] for name in names) for kind, names in KINDS.items()},
        gradients={kind: sum(passed[f"{name}_vjp"] for name in names) for kind, names in KINDS.items()},
        reasons=[r.text() for r in raised.remarks if r.kind == "missed"],
        seconds=seconds,
    )
    if certify:
        from zenith_mlir.certify import certify_composites

        certificates = certify_composites(raised, target=zenith.Target.parse("cpu"))
        row.certified = len(certificates)
        row.unsound = [c.summary for c in certificates if not c.sound]
    if memory and row.trains:
        row.temporaries = temporaries(module), temporaries(module.run("default", target="cpu"))
    return row


def temporaries(module: zenith.Module) -> float:
    """MiB that the compiled module needs beside arguments and results."""
    return float(module.compile("cpu").memory_analysis().temp_size_in_bytes) / 2**20


def gradients(rows: Iterable[Row], kinds: Iterable[str]) -> str:
    known = [(row, kind) for row in rows for kind in kinds if row.trains and row.truth.get(kind)]
    if not known:
        return "-"
    return f"{sum(row.gradients[kind] for row, kind in known)}/{sum(row.truth[kind] for row, kind in known)}"


def memory_table(rows: list[Row]) -> Table:
    out = Table("train module", "temporaries, MiB", "after default", "ratio")
    for row in rows:
        if row.temporaries is not None:
            before, after = row.temporaries
            out.add_row(row.file, f"{before:.1f}", f"{after:.1f}", f"{after / before:.2f}")
    return out


def cell(rows: Iterable[Row], kind: str) -> str:
    known = [row for row in rows if kind in row.truth]
    raised, truth = sum(row.raised[kind] for row in known), sum(row.truth[kind] for row in known)
    extra = sum(row.extra(kind) for row in known)
    return (f"{raised}/{truth}" if raised or truth else "-") + (f" +{extra}" if extra else "")


def table(title: str, groups: dict[str, list[Row]], kinds: list[str]) -> Table:
    out = Table(title, *kinds, "gradients", "unsound", "s")
    for name, rows in groups.items():
        certified, unsound = sum(row.certified for row in rows), sum(len(row.unsound) for row in rows)
        soundness = f"{unsound}/{certified}" if certified else "-"
        seconds = f"{sum(row.seconds for row in rows):.2f}"
        out.add_row(name, *(cell(rows, kind) for kind in kinds), gradients(rows, kinds), soundness, seconds)
    return out


def grouped(rows: list[Row], key: str) -> dict[str, list[Row]]:
    out: dict[str, list[Row]] = {}
    for row in rows:
        out.setdefault(getattr(row, key), []).append(row)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, metavar="DIR")
    parser.add_argument("--kinds", default="attention", help="comma-separated, or all (default: %(default)s)")
    parser.add_argument("--certify", action="store_true", help="run every distinct site against float64 (minutes)")
    parser.add_argument("--memory", action="store_true", help="compile the train modules before and after (minutes)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it there too")
    args = parser.parse_args()
    manifest = args.corpus / "manifest.json"
    if not manifest.is_file():
        parser.error(f"{args.corpus} has no manifest.json; name a folder of modules with their ground truth")
    kinds = list(KINDS) if args.kinds == "all" else args.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"unknown kind {unknown[0]}; choose from {', '.join(KINDS)}")

    entries = json.loads(manifest.read_text())
    rows = [measure(args.corpus / entry["file"], entry, args.certify, args.memory) for entry in entries]
    console = Console(width=110)
    for title, key in (("file", "file"), ("source", "source"), ("total", "group")):
        console.print(table(title, grouped(rows, key), kinds))
    if args.memory:
        console.print(memory_table(rows))
    for row in rows:
        for line in [*row.reasons, *row.unsound]:
            console.print(f"{row.file}: {line}", markup=False, highlight=False, soft_wrap=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return int(any(row.unsound or row.extra(kind) for row in rows for kind in kinds))


if __name__ == "__main__":
    sys.exit(main())
