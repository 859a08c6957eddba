"""What the steps of an attention mean to cuDNN: a scale, a mask type, and an additive bias for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from zenith_mlir.dialects.attention import AttentionSpec, Step
from zenith_mlir.dialects.implementation import Refusal

# A column with this logit or less has a weight of zero: exp(-1e4 - maximum) is below every float unless the row's
# maximum is below -9900, and programs that hide with -1e4 rely on that themselves.
HIDES = -1e4


@dataclass(frozen=True)
class Band:
    """low <= column - row <= high; None is no bound."""

    low: int | None = None
    high: int | None = None

    def __and__(self, other: Band) -> Band:
        lows = [low for low in (self.low, other.low) if low is not None]
        highs = [high for high in (self.high, other.high) if high is not None]
        return Band(max(lows, default=None), min(highs, default=None))

    def within(self, rows: int, columns: int) -> Band:
        """The same on logits of this shape, without bounds that hide nothing."""
        low = None if self.low is not None and self.low <= 1 - rows else self.low
        high = None if self.high is not None and self.high >= columns - 1 else self.high
        return Band(low, high)

    def hides_rows(self, rows: int, columns: int) -> bool:
        """Whether some row sees no column. Row t sees max(0, t + low) up to min(columns - 1, t + high)."""
        low, high = -rows if self.low is None else self.low, columns if self.high is None else self.high
        return high < 0 or low > columns - rows or low > high


@dataclass(frozen=True)
class Mask:
    """The boolean modifier of a role; False hides, or True where negated."""

    role: int
    negated: bool


@dataclass(frozen=True)
class Program:
    """The steps in cuDNN's terms: logits = scale q kᵀ + bias, then hidden outside `band` and where a mask says so.

    band: all that is hidden by position. No row is hidden by it as a whole: those that a band hides partly are found
    where the program is read, so a finite fill and cuDNN's -inf give the same weights, zeros.
    masks: what is hidden by operands. Rows may be hidden as a whole; each of their logits is then `fill`.
    bias: the role that is added, if any.
    """

    scale: float = 1.0
    band: Band = Band()
    masks: tuple[Mask, ...] = ()
    fill: float | None = None
    bias: int | None = None

    def causal(self) -> bool:
        """Whether cuDNN's causal mask, which is aligned to the first row and column, is the band's upper bound."""
        return self.band.high == 0

    def window(self, rows: int, columns: int) -> int | None:
        """The length of cuDNN's sliding window, row t itself included, if it is the band's lower bound.

        cuDNN has it with a causal mask, without a bias and with no more rows than columns only.
        """
        if self.band.low is None or not self.causal() or self.masks or self.bias is not None or rows > columns:
            return None
        return 1 - self.band.low

    def folded(self, rows: int, columns: int) -> Band:
        """The part of the band that the bias has to hide."""
        low = None if self.window(rows, columns) is not None else self.band.low
        return Band(low, None if self.causal() else self.band.high)

    def bias_hides(self, rows: int, columns: int) -> bool:
        """Whether the bias has to hide columns."""
        return bool(self.masks) or self.folded(rows, columns) != Band()

    def needs_bias(self, rows: int, columns: int) -> bool:
        """Whether cuDNN is given a bias."""
        return self.bias is not None or self.bias_hides(rows, columns)


def read_program(spec: AttentionSpec) -> Program | Refusal:
    """The steps of `spec`, or which of them cuDNN's attention cannot do."""
    program, rows, columns = Program(), spec.size("t"), spec.size("s")
    for step in spec.steps:
        reader = _READERS.get(step.kind)
        read = _refuse_step(step) if reader is None else reader(program, step)
        if isinstance(read, Refusal):
            return read
        program = read
    if program.masks and _hides_unevenly([step.kind for step in spec.steps]):
        return Refusal(
            "a row hidden by a mask and a band together would hold several values", "mask once, after adding the bias"
        )
    program = replace(program, band=program.band.within(rows, columns))
    if program.band.hides_rows(rows, columns):
        return Refusal("the band hides whole rows, whose weights cuDNN leaves undefined", "drop those query rows")
    return program


def _hides_unevenly(kinds: list[str]) -> bool:
    """Whether what a band hides is not the fill alone but a sum with logits or bias."""
    return "band_add" in kinds or ("add" in kinds and "band" in kinds[: kinds.index("add")])


def _refuse_step(step: Step) -> Refusal:
    if step.is_post:
        return Refusal(
            f"the probabilities are changed after the softmax ({step.kind}), which cuDNN's attention cannot do",
            "use no dropout or mask on the attention weights",
        )
    return Refusal(f"cuDNN's attention has no step {step.kind!r}")


def _scale(program: Program, step: Step) -> Program | Refusal:
    factor = step.value or 0.0
    if program.bias is not None:
        return Refusal("the bias is scaled after it is added", "scale the logits before adding the bias")
    if program.fill is not None and not factor * program.fill <= HIDES:
        return Refusal(f"hidden logits are scaled by {factor:g} and may still count", "scale the logits before masking")
    return replace(program, scale=program.scale * factor, fill=program.fill and program.fill * factor)


def _band(program: Program, step: Step) -> Program | Refusal:
    masked = _masked(program, step)
    return masked if isinstance(masked, Refusal) else replace(masked, band=masked.band & Band(step.low, step.high))


def _select(program: Program, step: Step) -> Program | Refusal:
    masked, role = _masked(program, step), step.operand or 0
    return masked if isinstance(masked, Refusal) else replace(masked, masks=(*masked.masks, Mask(role, step.negated)))


def _masked(program: Program, step: Step) -> Program | Refusal:
    """With the step's fill. One fill for all: in a row hidden by two masks the larger one would win."""
    fill = to_float32(step.value or 0.0)
    if not fill <= HIDES:
        return Refusal(f"hidden logits are {fill:g} and may still count; cuDNN hides them wholly", "hide with -1e9")
    if program.fill is not None and program.fill != fill:
        return Refusal(f"two masks hide with different values, {program.fill:g} and {fill:g}", "use the same value")
    return replace(program, fill=fill)


def _add(program: Program, step: Step) -> Program | Refusal:
    if program.masks:
        return Refusal("a bias is added to logits that a mask has hidden", "add the bias first, then mask")
    if program.bias is not None:
        return Refusal("two biases are added, cuDNN's attention takes one", "add the biases to each other first")
    return replace(program, bias=step.operand)


def to_float32(value: float) -> float:
    """`value` rounded to float32, infinite beyond its range."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


_READERS: dict[str, Callable[[Program, Step], Program | Refusal]] = {
    "scale": _scale,
    "band": _band,
    "band_add": _band,
    "select": _select,
    "add": _add,
}


def fills_hidden_rows(program: Program) -> bool:
    """Whether masks may hide whole rows and what those rows then give, mean(v), is defined: with -inf it is NaN."""
    return bool(program.masks) and program.fill is not None and math.isfinite(program.fill)
