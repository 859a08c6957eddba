"""What there is to say about one run of a pipeline."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from zenith_mlir.memory.memory_report import MemoryReport
from zenith_mlir.remarks import Remark

__all__ = ["CHOICES", "Choice", "Findings", "PassRun"]

CHOICES = ("keep", "recompute", "offload")
"""What may be done with a value that the backward needs."""


@dataclass(frozen=True)
class PassRun:
    """One pass: how long it took, by how many the number of operations changed, and what it counted."""

    name: str
    seconds: float
    operations: int
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Choice:
    """What a pass decided about a value: `choice` is one of CHOICES, `cost` the seconds that it adds, if it says so."""

    value: str
    choice: str
    bytes: int
    cost: float | None
    file: str
    line: int

    @classmethod
    def of(cls, remark: Remark) -> Choice | None:
        """The choice that a remark tells of in its `args`; None for other remarks."""
        args = remark.args
        if remark.kind != "analysis" or not {"value", "choice", "bytes"} <= args.keys():
            return None
        cost = args.get("cost")
        return cls(
            str(args["value"]),
            str(args["choice"]),
            int(args["bytes"]),
            None if cost is None else float(cost),
            remark.file,
            remark.line,
        )


@dataclass(frozen=True)
class Findings:
    """One run of a pipeline over the module called `name`.

    `operations` are how many there were before and after. `before` and `after` are what the program takes; None, with
    the reason in `no_memory`, where that cannot be told.
    """

    name: str
    pipeline: str
    target: str
    numerics: str
    versions: Mapping[str, str]
    passes: Sequence[PassRun]
    operations: tuple[int, int]
    remarks: Sequence[Remark]
    before: MemoryReport | None
    after: MemoryReport | None
    no_memory: str = ""

    @property
    def choices(self) -> list[Choice]:
        """What was decided about each value, those that take most first."""
        found = [choice for remark in self.remarks if (choice := Choice.of(remark)) is not None]
        return sorted(found, key=lambda choice: -choice.bytes)

    @property
    def bytes_by_choice(self) -> dict[str, int]:
        """Bytes of the values that are kept, recomputed and offloaded."""
        totals = Counter(dict.fromkeys(CHOICES, 0))
        for each in self.choices:
            totals[each.choice] += each.bytes
        return dict(totals)

    def to_json(self) -> str:
        """All of it as one object."""
        return json.dumps(
            {
                "name": self.name,
                "pipeline": self.pipeline,
                "target": self.target,
                "numerics": self.numerics,
                "versions": dict(self.versions),
                "passes": [asdict(run) for run in self.passes],
                "operations": {"before": self.operations[0], "after": self.operations[1]},
                "remarks": [json.loads(remark.to_json()) for remark in self.remarks],
                "choices": [asdict(choice) for choice in self.choices],
                "memory": {
                    "before": None if self.before is None else json.loads(self.before.to_json()),
                    "after": None if self.after is None else json.loads(self.after.to_json()),
                    "reason": self.no_memory,
                },
            },
            ensure_ascii=False,
        )
