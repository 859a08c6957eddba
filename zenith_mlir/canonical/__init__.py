"""The canonical form of StableHLO that matchers see: small rules, grouped by what they fold.

A rule looks at one operation and returns the values that replace its results, or None where it has nothing to say. It
builds new operations at the current insertion point. Every rule keeps each element of each result bit for bit, except
that a folded splat is rounded once by IEEE arithmetic where XLA's own approximation may differ in the last place.
"""

from __future__ import annotations

from zenith_mlir.canonical import arithmetic, logic, shapes, splats
from zenith_mlir.canonical.rules import Rule, rewrite

RULES: dict[str, list[Rule]] = {}
for _table in (splats.RULES, shapes.RULES, arithmetic.RULES, logic.RULES):
    for _name, _rules in _table.items():
        RULES.setdefault(_name, []).extend(_rules)

__all__ = ["RULES", "Rule", "rewrite"]
