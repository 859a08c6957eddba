"""What benchmarks/kernels.py and calibrate.py measure: for each kernel its shapes and its peers' programs."""

from __future__ import annotations

import re
from importlib import import_module

from cases.case import Case, Family

_FAMILIES = ("attention", "matmul", "norms", "softmaxes", "losses", "activations", "rotary", "bert")


def families() -> list[Family]:
    return [family for name in _FAMILIES for family in import_module(f"cases.{name}").FAMILIES]


def cases(pattern: str = "", *, quick: bool = False) -> list[Case]:
    """The cases in whose name the regular expression is found; with `quick` the first of each kernel and dtype."""
    found = [case for family in families() for case in family.cases if re.search(pattern, str(case))]
    if not quick:
        return found
    return list({(case.kernel, case.dtype): case for case in reversed(found)}.values())[::-1]


def family_of(case: Case) -> Family:
    return next(family for family in families() if family.name == case.kernel)
