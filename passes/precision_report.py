"""precision-report: what cast-precision would cost each value of a program, said in remarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zenith_mlir.context import PassContext
from zenith_mlir.module import Module
from zenith_mlir.passes.cast_precision import CastPrecision
from zenith_mlir.pipeline import Pipeline
from zenith_mlir.precision.cast.policy import CastPolicy, Dtype
from zenith_mlir.registry import Pass, option, register
from zenith_mlir.remarks import Remark

if TYPE_CHECKING:
    from zenith_mlir.precision.precision_report import Line, Row


@register("precision-report")
@dataclass(frozen=True)
class PrecisionReport(Pass):
    """Run the program after `cast-precision` and in float64, and state the error of each of its values.

    Inputs are random, drawn to suit their use. One analysis remark a value, the largest error first, with the error
    relative to the value's size, what its own operation adds, and how many numbers overflow and underflow; then one a
    line of the program whose errors move the results, with the option that leaves it in float32. The module is not
    changed. `zenith-precision` takes inputs and any pipeline, and prints tables.
    """

    compute: Dtype = option(Dtype("bfloat16"), "as of cast-precision")
    policy: CastPolicy = option(CastPolicy(), "as of cast-precision")
    allow: tuple[str, ...] = option((), "as of cast-precision")
    deny: tuple[str, ...] = option((), "as of cast-precision")
    top: int = option(20, "values to tell of")
    seed: int = option(0, "of the inputs")

    def run(self, module: Module, ctx: PassContext) -> None:
        from zenith_mlir.precision.reporting import report

        cast = Pipeline((CastPrecision(self.compute, self.policy, self.allow, self.deny),))
        found = report(module.clone(), pipeline=cast, seed=self.seed, target=ctx.target, numerics=ctx.numerics)
        ctx.remarks += [_of_value(row, ctx) for row in found.rows[: self.top] if not row.zero]
        suggested = found.suggested()
        ctx.remarks += [_of_line(line, ctx) for line in found.lines if line.pattern in suggested]


def _of_value(row: Row, ctx: PassContext) -> Remark:
    facts = {"error": row.error, "own_error": row.own_error, "overflow": row.overflow, "underflow": row.underflow}
    return Remark(
        "analysis", ctx.pass_name, function="main", file=row.file, line=row.line,
        reason=f"{row.op} has a relative error of {row.error:.1e} as {row.dtype}, {row.own_error:.1e} of its own",
        args={**facts, "dtype": row.dtype, "count": row.count},
    )  # fmt: skip


def _of_line(line: Line, ctx: PassContext) -> Remark:
    return Remark(
        "analysis", ctx.pass_name, function="main", file=line.file, line=line.line,
        reason=f"errors of {', '.join(line.ops)} move the results by {line.effect:.1e}",
        suggest=f"cast-precision{{deny={line.pattern}}} leaves them in float32",
        args={"effect": line.effect, "overflow": line.overflow, "deny": line.pattern},
    )  # fmt: skip
