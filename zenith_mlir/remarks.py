"""Remarks: what a pass did, what it nearly did and why not, at a line of the user's own source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

__all__ = ["KINDS", "Kind", "Remark"]

Kind = Literal["passed", "missed", "analysis", "failure"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Remark:
    """One remark.

    `op` names the composite it is about (`zenith.attention`, or empty), `function` the MLIR function.
    `reason` says why, `suggest` what to do about it. `args` are facts: strings, numbers, booleans and lists
    of these.
    """

    kind: Kind
    pass_name: str
    op: str = ""
    function: str = ""
    file: str = "<unknown>"
    line: int = 0
    col: int = 0
    reason: str = ""
    suggest: str = ""
    args: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def message(self) -> str:
        """The sentence after `[kind] pass:`."""
        if self.reason and self.kind != "passed":
            subject = self.reason
        else:
            facts = ", ".join(f"{key}={_show(value)}" for key, value in self.args.items())
            subject = " ".join(filter(None, [self.op, f"({facts})" if facts else ""]))
            subject = ": ".join(filter(None, [subject, self.reason]))
        return "; ".join(filter(None, [subject, self.suggest]))

    def text(self) -> str:
        """`file:line:col: remark: [missed] fuse-attention: why; what to do`."""
        return f"{self.file}:{self.line}:{self.col}: remark: [{self.kind}] {self.pass_name}: {self.message}"

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(
            {
                "kind": self.kind,
                "pass": self.pass_name,
                "op": self.op,
                "function": self.function,
                "file": self.file,
                "line": self.line,
                "col": self.col,
                "reason": self.reason,
                "suggest": self.suggest,
                "args": dict(self.args),
            },
            ensure_ascii=False,
            default=_plain,
        )

    @classmethod
    def from_json(cls, text: str) -> Remark:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        return cls(pass_name=fields.pop("pass"), **fields)


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """NumPy scalars as Python numbers, everything else as its text."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else str(value)
