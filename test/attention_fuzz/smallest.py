"""The simplest program that still fails: parts go back to their simplest options, one by one, as long as it does."""

from __future__ import annotations

from collections.abc import Callable

from attention_fuzz.choices import OPTIONS, Choices


def smallest(choices: Choices, fails: Callable[[Choices], bool]) -> Choices:
    """`choices` with as few parts as a greedy search leaves of those that the failure needs."""
    current = choices
    changed = True
    while changed:
        changed = False
        for part, _ in current.parts:
            simpler = current.having(**{part: OPTIONS[part][0]})
            if fails(simpler):
                current, changed = simpler, True
    return current
