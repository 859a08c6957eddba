"""Random programs that are attention, or look like it, and a judge that says whether fusing them kept their numbers.

==============  ====================================================================================
`choices.py`    what a program is made of: one option for each of its parts
`source.py`     the program as Python text, with its arguments
`inputs.py`     numbers for the arguments, ordinary and adversarial
`check.py`      many programs in one module, raised, lowered and judged against float64
`runs.py`       numbered batches of programs
`smallest.py`   the simplest program that still fails
==============  ====================================================================================
"""

from __future__ import annotations

from attention_fuzz.check import Verdict, check_batch
from attention_fuzz.choices import Choices, random_choices
from attention_fuzz.runs import BATCH, batch, choices
from attention_fuzz.smallest import smallest
from attention_fuzz.source import Program, write

__all__ = [
    "BATCH",
    "Choices",
    "Program",
    "Verdict",
    "batch",
    "check_batch",
    "choices",
    "random_choices",
    "smallest",
    "write",
]
