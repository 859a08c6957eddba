"""`CastPolicy`: how far cast-precision goes, and the operations that a user puts into another class."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from jaxlib.mlir import ir

from zenith_mlir.errors import ZenithError, did_you_mean
from zenith_mlir.ir.location import frames, names
from zenith_mlir.precision.cast.classes import Kind, name_of
from zenith_mlir.precision.dtypes import SHORT

_KINDS = {kind.value: kind for kind in (Kind.ALLOW, Kind.INFER, Kind.CLEAR, Kind.DENY)}
_TYPES = {"bfloat16": "bf16", "float16": "f16"}


@dataclass(frozen=True)
class Dtype:
    """What is computed in: bfloat16 or float16."""

    name: str

    @classmethod
    def parse(cls, text: str) -> Dtype:
        """`bf16`, `bfloat16`, `f16`, `float16` or `half`.

        Raises:
            OptionValueError: for anything else.
        """
        name = SHORT.get(text, text)
        if name not in _TYPES:
            close = did_you_mean(text, (*_TYPES, *_TYPES.values()))
            raise OptionValueError(f"expected bf16 (bfloat16) or f16 (float16){close}")
        return cls(name)

    def __str__(self) -> str:
        return _TYPES[self.name]

    def type(self) -> ir.Type:
        """The element type, in the current MLIR context."""
        return ir.BF16Type.get() if self.name == "bfloat16" else ir.F16Type.get()


class OptionValueError(ZenithError, ValueError):
    """A value of an option that means nothing."""


@dataclass(frozen=True)
class Rule:
    """Operations that match `pattern` have the class `kind`.

    A pattern is a glob (fnmatch) over the name of an operation (`stablehlo.tanh`, `tanh`, `zenith.attention`), its
    place (`model.py:12`, `model.py`, any frame of the call stack) and the names in its location
    (`jit(f)/layer_0/dot_general`).
    """

    kind: Kind
    pattern: str

    def matches(self, op: ir.Operation) -> bool:
        return any(fnmatch.fnmatchcase(text, self.pattern) for text in _texts(op))

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.pattern}"


def _texts(op: ir.Operation) -> Iterator[str]:
    name = name_of(op)
    yield name
    yield name.partition(".")[2]
    for frame in frames(op.location):
        base = frame.file.rpartition("/")[2]
        yield from (frame.file, base, f"{frame.file}:{frame.line}", f"{base}:{frame.line}")
    yield from names(op.location)


@dataclass(frozen=True)
class CastPolicy:
    """What is cast.

    Presets:

        default       products, what is computed between them, and the logits that a zenith.cross_entropy is given
        conservative  products alone: what is between them and behind them stays float32
        aggressive    also products for which the program asks for the precision HIGHEST

    `infer` says whether operations between products are cast, `logits` whether the operands of losses are, `highest`
    whether products for which the program asks for more precision are. Of `rules` the first that matches decides.
    """

    preset: str = "default"
    infer: bool = True
    logits: bool = True
    highest: bool = False
    rules: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, text: str) -> CastPolicy:
        """A preset, patterns of the form `CLASS:PATTERN`, or a preset and patterns, separated by commas.

        Raises:
            OptionValueError: saying what was expected and what came.
        """
        found, rules = _PRESETS["default"], []
        for item in filter(None, (part.strip() for part in text.split(","))):
            kind, colon, pattern = item.partition(":")
            if item in _PRESETS:
                found = _PRESETS[item]
            elif colon and kind in _KINDS and pattern:
                rules.append(Rule(_KINDS[kind], pattern))
            elif colon:
                close = did_you_mean(kind, _KINDS)
                raise OptionValueError(f"{item!r}: expected one of {', '.join(_KINDS)}, a colon and a pattern{close}")
            else:
                close = did_you_mean(item, _PRESETS)
                raise OptionValueError(
                    f"no policy {item!r}{close}: expected one of {', '.join(_PRESETS)}, or CLASS:PATTERN with a class "
                    f"of {', '.join(_KINDS)}"
                )
        return replace(found, rules=tuple(rules))

    def with_rules(self, allow: Iterable[str], deny: Iterable[str]) -> CastPolicy:
        """This policy, where operations that match one of `deny` or `allow` are denied or allowed."""
        first = [Rule(Kind.DENY, pattern) for pattern in deny] + [Rule(Kind.ALLOW, pattern) for pattern in allow]
        return replace(self, rules=(*first, *self.rules))

    def __str__(self) -> str:
        return ",".join([self.preset, *map(str, self.rules)])


_PRESETS = {
    "default": CastPolicy(),
    "conservative": CastPolicy("conservative", infer=False, logits=False),
    "aggressive": CastPolicy("aggressive", highest=True),
}
