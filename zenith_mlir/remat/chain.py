"""Chains of unlike stages, and what a plan of a chain does.

The model is that of Herrmann, Beaumont, Eyraud-Dubois et al. 2019, "Optimal checkpointing for heterogeneous chains: how
to train deep neural networks with limited memory" (rotor), with the modes of Zhao et al. 2023, "Rockmate: an efficient,
fast, automatic and generic tool for re-materialization in PyTorch": what a stage keeps between its forward and its
backward, and what it recomputes for it. A mode may also be of several stages in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Back", "Chain", "Mode", "Run", "Stage"]


@dataclass(frozen=True)
class Mode:
    """A way to run `span` stages as one: the forward in `forward_cost` seconds keeps `bytes` beside the input of the
    first and the output of the last, from which the backward recomputes the rest in `backward_cost` seconds. A mode
    that is `alone` keeps nothing: its backward starts from the input, with nothing between forward and backward.

    The peaks are bytes live at most in either, the input left out. That of the backward has all that is live then, that
    of the forward lacks the stages' `base`. No peak is below what the stages need that run one after the other and keep
    nothing.
    """

    bytes: int
    forward_cost: float
    backward_cost: float
    forward_peak: int
    backward_peak: int
    span: int = 1
    alone: bool = False


@dataclass(frozen=True)
class Stage:
    """The modes that begin with this stage. `modes[0]` is alone and of this stage only.

    `base` is what else is live while the forward first runs, `backward_base` when the backward of this stage begins and
    the stages before it may run again.
    """

    modes: tuple[Mode, ...]
    base: int = 0
    backward_base: int = 0


@dataclass(frozen=True)
class Run:
    """Run the forward of stages `start` to `stop` - 1 and keep the input of `stop`, and what the mode with the number
    `mode` of stage `start` keeps. `before` is the stage whose backward comes next; None in the first forward.
    """

    start: int
    stop: int
    mode: int
    before: int | None


@dataclass(frozen=True)
class Back:
    """Run the backward of the stages of the mode with the number `mode` of `stage`."""

    stage: int
    mode: int


@dataclass(frozen=True, eq=False)
class Chain:
    """Stages, and `inputs[s, t]`, the bytes of the input of t that are not in the input of s, for s < t; `passing` the
    same where it is not kept but used at once. Where each input replaces the one before, rows are equal.
    """

    stages: Sequence[Stage]
    inputs: NDArray[np.int64]
    passing: NDArray[np.int64]

    @classmethod
    def of(cls, stages: Sequence[Stage], sizes: Sequence[int]) -> Chain:
        """A chain in which stage s has an input of `sizes[s]` bytes."""
        inputs = np.tile(np.asarray(sizes, np.int64), (len(stages), 1))
        return cls(stages, inputs, inputs)
