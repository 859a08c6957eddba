"""PassContext: what a pass is told (target, numerics) and what it tells (remarks, statistics)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from zenith_mlir.errors import ZenithError
from zenith_mlir.remarks import Kind, Remark
from zenith_mlir.target import Target

if TYPE_CHECKING:
    from jaxlib.mlir import ir

__all__ = ["NUMERICS", "Numerics", "PassContext"]

Numerics = Literal["exact", "sound", "fast"]
NUMERICS: tuple[Numerics, ...] = get_args(Numerics)


@dataclass
class PassContext:
    """Handed to every pass of one run of a pipeline; `pass_name` is the pass running now.

    `numerics`: "exact" allows only rewrites that change no bit, "sound" those with an error against float64
    of at most twice the original's, "fast" those accepted for speed.
    """

    target: Target = field(default_factory=lambda: Target.parse("cpu"))
    numerics: Numerics = "sound"
    pass_name: str = ""
    remarks: list[Remark] = field(default_factory=list)
    statistics: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.numerics not in NUMERICS:
            raise ZenithError(f"numerics is one of {', '.join(NUMERICS)}, not {self.numerics!r}")

    def passed(self, op: ir.Operation, composite: str = "", reason: str = "", **args: Any) -> None:
        """Say that `op` was rewritten as `composite`; `args` are the facts recognised."""
        self._remark("passed", op, composite, reason, "", args)

    def missed(self, op: ir.Operation, composite: str, reason: str, suggest: str = "", **args: Any) -> None:
        """Say why `op` was nearly, but not, rewritten as `composite`, and what the user could change."""
        self._remark("missed", op, composite, reason, suggest, args)

    def analysis(self, op: ir.Operation, composite: str, reason: str, **args: Any) -> None:
        """State a fact found about `op`."""
        self._remark("analysis", op, composite, reason, "", args)

    def failure(self, op: ir.Operation, composite: str, reason: str, **args: Any) -> None:
        """Say that something the user asked for could not be done at `op`."""
        self._remark("failure", op, composite, reason, "", args)

    def count(self, name: str, n: int = 1) -> None:
        """Add to the statistic `name`, shown per pass by `--statistics`."""
        self.statistics[name] += n

    def _remark(
        self, kind: Kind, op: ir.Operation, composite: str, reason: str, suggest: str, args: dict[str, Any]
    ) -> None:
        from zenith_mlir.ir.location import enclosing_function, source_frame

        frame = source_frame(op.location)
        self.remarks.append(
            Remark(
                kind=kind,
                pass_name=self.pass_name,
                op=composite,
                function=enclosing_function(op),
                file=frame.file,
                line=frame.line,
                col=frame.col,
                reason=reason,
                suggest=suggest,
                args=args,
            )
        )
