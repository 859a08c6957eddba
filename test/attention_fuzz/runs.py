"""Numbered batches of random programs: the same seed gives the same programs, wherever and in which order they run."""

from __future__ import annotations

import random

from attention_fuzz.choices import Choices, random_choices
from attention_fuzz.source import Program, write

BATCH = 40


# The judge measures by the narrowest float type of a module, so each type has batches of its own.
DTYPES = ("float32", "bfloat16", "float32", "float16")


def batch(seed: int, number: int) -> list[Program]:
    """The programs of a batch."""
    return [write(choices(seed, number, i)) for i in range(BATCH)]


def choices(seed: int, number: int, i: int) -> Choices:
    """Program `i` of a batch."""
    return random_choices(random.Random(f"{seed}/{number}/{i}"), DTYPES[number % len(DTYPES)])
