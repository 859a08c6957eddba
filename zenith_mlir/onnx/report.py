"""What an export tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from zenith_mlir.onnx.differences import Difference
from zenith_mlir.onnx.divergence import Divergence

__all__ = ["ExportReport", "Validation"]


@dataclass(frozen=True)
class Validation:
    """Outputs of a model beside those of JAX: the worst of all samples for each, and where they part.

    `tolerance` is relative to the largest magnitude of an output; None is that of its type, or of the `narrowest` float
    that the program computes in.
    """

    outputs: tuple[Difference, ...]
    samples: int = 1
    tolerance: float | None = None
    first: Divergence | None = None
    narrowest: str = ""

    @property
    def ok(self) -> bool:
        return all(each.within(self.tolerance, self.narrowest) for each in self.outputs)

    def __str__(self) -> str:
        columns = ("output", "type", "max", "mean", "of scale", "ulp", "")
        rows = [
            (
                each.name,
                each.dtype,
                f"{each.maximum:.3g}",
                f"{each.mean:.3g}",
                f"{each.relative:.2e}",
                f"{each.ulp:.3g}",
                each.problem
                or (f"{each.unlike} not finite alike" if each.unlike else "")
                or ("" if each.within(self.tolerance, self.narrowest) else "beyond the tolerance"),
            )
            for each in self.outputs
        ]
        text = _table(columns, rows)
        return f"{text}\n{self.first}" if self.first else text


@dataclass(frozen=True)
class ExportReport:
    """What was written and how.

    Attributes:
      opset: of ONNX's own domain.
      nodes: how many of each operator, those in loops and branches included.
      fused: how many zenith ops of each name became operators of their own.
      inputs, outputs: names with shapes, symbolic sizes by their expressions.
      parameters, weight_bytes: how many numbers the model holds, and their size.
      seconds: what each step took.
      notes: what a user should know.
      validation: the comparison with JAX, where there was one.
    """

    opset: int
    nodes: Mapping[str, int]
    fused: Mapping[str, int] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    parameters: int = 0
    weight_bytes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    validation: Validation | None = None

    @property
    def node_count(self) -> int:
        return sum(self.nodes.values())

    def __str__(self) -> str:
        ordered = sorted(self.nodes.items(), key=lambda each: (-each[1], each[0]))
        lines = [
            f"opset {self.opset}, {self.node_count} nodes: " + ", ".join(f"{count} {name}" for name, count in ordered),
            f"inputs: {', '.join(self.inputs) or 'none'}",
            f"outputs: {', '.join(self.outputs)}",
            f"weights: {self.parameters:,} numbers, {self.weight_bytes / 2**20:.1f} MiB",
        ]
        if self.fused:
            lines.append("fused: " + ", ".join(f"{count} {name}" for name, count in sorted(self.fused.items())))
        lines.append("seconds: " + ", ".join(f"{step} {seconds:.2f}" for step, seconds in self.seconds.items()))
        lines += [f"note: {note}" for note in self.notes]
        if self.validation is not None:
            lines.append(f"beside JAX, {_samples(self.validation.samples)}:\n{self.validation}")
        return "\n".join(lines)


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count} samples"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console(width=160, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())
