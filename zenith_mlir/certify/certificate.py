"""What certification found: `Case` for one result on one input set, `Certificate` for a rewrite."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Case", "Certificate"]


@dataclass(frozen=True)
class Case:
    """One result of both programs on one input set; `judge.py` defines the numbers.

    `measure` names the measure that came closest to its limit, and `error_original`, `error_fused` and
    `allowed` are in it. `ratio` is error_fused / max(error_original, 1 ulp). `new_nonfinite` counts NaN and
    inf that the original does not have, `lost_nonfinite` those that the original and the judge have and the
    rewritten program has not. `judged` is the share of places where original and judge are finite; with 0 the
    case says nothing about numbers.
    """

    name: str
    result: int
    measure: str
    error_original: float
    error_fused: float
    allowed: float
    ratio: float
    new_nonfinite: int = 0
    lost_nonfinite: int = 0
    judged: float = 1.0
    same_bits: bool = False

    @property
    def sound(self) -> bool:
        return self.new_nonfinite == 0 and self.lost_nonfinite == 0 and self.error_fused <= self.allowed

    @property
    def reason(self) -> str:
        """Why the case is unsound; empty if it is sound."""
        reasons = []
        if self.new_nonfinite:
            reasons.append(f"{self.new_nonfinite} new NaN or inf")
        if self.lost_nonfinite:
            reasons.append(f"{self.lost_nonfinite} NaN or inf lost")
        if not self.error_fused <= self.allowed:
            reasons.append(
                f"{self.measure} error {self.error_fused:.1e}, original {self.error_original:.1e}, "
                f"allowed {self.allowed:.1e}"
            )
        return "; ".join(reasons)


@dataclass(frozen=True)
class Certificate:
    """The verdict on one rewrite, `op` naming it ("zenith.attention", or "module" for a whole program).

    `sound` says that every case is. `accepted` applies the policy: "exact" asks for the same bits, "sound"
    for soundness, "fast" accepts whatever was measured.
    """

    op: str
    cases: tuple[Case, ...]
    numerics: str = "sound"
    note: str = ""

    @property
    def sound(self) -> bool:
        return all(case.sound for case in self.cases)

    @property
    def accepted(self) -> bool:
        match self.numerics:
            case "exact":
                return all(case.same_bits for case in self.cases)
            case "fast":
                return True
            case _:
                return self.sound

    @property
    def worst_ratio(self) -> float:
        """The largest `ratio` of any case; 0 without cases."""
        return max((case.ratio for case in self.cases), default=0.0)

    @property
    def failures(self) -> tuple[Case, ...]:
        """The cases that the policy does not accept (under "fast": those that are not sound)."""
        if self.numerics == "exact":
            return tuple(case for case in self.cases if not case.same_bits)
        return tuple(case for case in self.cases if not case.sound)

    @property
    def summary(self) -> str:
        """One line, and one more for each failing input set."""
        verdict = {True: "sound", False: "UNSOUND"}[self.sound]
        if self.numerics == "exact":
            verdict = "same bits" if self.accepted else "DIFFERENT BITS"
        sets = len({case.name for case in self.cases})
        plural = "" if sets == 1 else "s"
        head = f"{self.op}: {verdict} on {sets} input set{plural}, worst ratio {self.worst_ratio:.2f}"
        lines = [f"{head} ({self.note})" if self.note else head]
        for case in self.failures:
            lines.append(f"  {case.name}, result {case.result}: {case.reason or 'bits differ'}")
        return "\n".join(lines)
