"""`--verify-diagnostics`: comments that say which remarks and errors a file must give, checked both ways.

::

    // expected-remark@+1 {{head size 60 is not a multiple of 8}}
    %0 = stablehlo.dot_general ...
    %1 = foo.bar  // expected-error {{unknown}}

The place is this line, `@+N` or `@-N` lines from it, `@above` or `@below` (the next line in that direction
which is not just such a comment), or `@unknown`. The text is a part of the message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from zenith_mlir.errors import ZenithError
from zenith_mlir.remarks import Remark

__all__ = ["Diagnostic", "Expectation", "expectations", "mismatches", "of_error", "of_remark"]

_PATTERN = re.compile(r"expected-(error|remark)(?:@([+-]\d+|above|below|unknown))?\s*\{\{(.*?)\}\}")
_ANY = re.compile(r"expected-\w+\S*")
_ONLY_COMMENT = re.compile(r"\s*//.*expected-(error|remark)")


@dataclass(frozen=True)
class Diagnostic:
    """An error or remark that was given; line 0 is an unknown place."""

    kind: str
    file: str
    line: int
    message: str


@dataclass(frozen=True)
class Expectation:
    """A comment at line `at` that asks for a diagnostic at `line`."""

    kind: str
    at: int
    line: int
    text: str

    def matches(self, diagnostic: Diagnostic, file: str) -> bool:
        here = diagnostic.file == file if self.line else True
        line = diagnostic.line if diagnostic.file == file else 0
        return here and self.kind == diagnostic.kind and self.line == line and self.text in diagnostic.message


def expectations(text: str, file: str, first_line: int = 1) -> list[Expectation]:
    """Every expectation in a file's text.

    Raises:
        ZenithError: for a comment that starts like one and is none.
    """
    lines = text.splitlines()
    return [expectation for i in range(len(lines)) for expectation in _of_line(lines, i, file, first_line)]


def _of_line(lines: list[str], i: int, file: str, first: int) -> Iterator[Expectation]:
    comment = lines[i].partition("//")[2]
    found = _PATTERN.findall(comment)
    if len(found) != len(_ANY.findall(re.sub(r"\{\{.*?\}\}", "", comment))):
        form = "expected-remark@+1 {{text}} or expected-error@below {{text}}"
        raise ZenithError(f"{file}:{first + i}:1: an expectation is written {form}, not {comment.strip()!r}")
    for kind, place, text in found:
        yield Expectation(kind, first + i, 0 if place == "unknown" else first + _target(lines, i, place), text)


def _target(lines: list[str], i: int, place: str) -> int:
    """The index of the line an expectation at line `i` is about."""
    if place not in ("above", "below"):
        return i + int(place or 0)
    step = 1 if place == "below" else -1
    i += step
    while 0 <= i < len(lines) and _ONLY_COMMENT.match(lines[i]):
        i += step
    return i


def mismatches(expected: Iterable[Expectation], given: Iterable[Diagnostic], file: str) -> list[str]:
    """One line for every expectation without a diagnostic and every diagnostic without an expectation."""
    missing, problems = list(expected), []
    for diagnostic in given:
        match = next((e for e in missing if e.matches(diagnostic, file)), None)
        if match:
            missing.remove(match)
        else:
            where = f"{diagnostic.file}:{diagnostic.line}"
            problems.append(f"{where}: unexpected {diagnostic.kind}: {diagnostic.message}")
    problems += [f'{file}:{e.at}: expected {e.kind} "{e.text}" was not produced at {_place(e)}' for e in missing]
    return problems


def _place(expectation: Expectation) -> str:
    return f"line {expectation.line}" if expectation.line else "an unknown place"


def of_remark(remark: Remark) -> Diagnostic:
    return Diagnostic("remark", remark.file, remark.line, f"[{remark.kind}] {remark.pass_name}: {remark.message}")


def of_error(error: ZenithError) -> Diagnostic:
    """An error as a diagnostic, placed where its message says."""
    message = str(error)
    place = re.search(r"(?:^|failed: )([^\s:]+):(\d+):\d+: ", message)
    return Diagnostic("error", place[1] if place else "", int(place[2]) if place else 0, message)
