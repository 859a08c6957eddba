"""The errors of zenith_mlir.

Each message is complete for a user: where, what was expected, what came, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "OptionError",
    "PassError",
    "PipelineError",
    "ReadError",
    "TargetError",
    "ZenithError",
    "did_you_mean",
]


class ZenithError(Exception):
    """Base of every error raised on purpose by zenith_mlir."""


class ReadError(ZenithError):
    """Bytes or a file that hold no readable module; the message starts with `file:line:col` where there is
    one.
    """


class PipelineError(ZenithError):
    """A textual pipeline that cannot be parsed, or a name in it that is no pass."""


class OptionError(PipelineError):
    """An option that a pass does not have, or a value that the option's type does not accept."""


class TargetError(ZenithError):
    """A target description that cannot be parsed."""


class PassError(ZenithError):
    """A pass that failed.

    `pass_name` names it, `cause` is what it raised (None: the native pass or the verifier).
    """

    def __init__(self, pass_name: str, message: str, cause: BaseException | None = None):
        super().__init__(f"pass {pass_name} failed: {message}")
        self.pass_name = pass_name
        self.cause = cause


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean a, b?)` for the known names that look like `name`, or the empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.55)
    return f" (did you mean {', '.join(close)}?)" if close else ""
