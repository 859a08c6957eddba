"""What a matcher raises where something resembles its pattern and is not it."""

from __future__ import annotations

from jaxlib.mlir import ir


class NoMatch(Exception):
    """Something resembles the pattern and is not it. `reason` says why in a user's words, `op` where, `suggest` what to
    change.
    """

    def __init__(self, op: ir.Operation, reason: str, suggest: str = "") -> None:
        super().__init__(reason)
        self.op, self.reason, self.suggest = op, reason, suggest
