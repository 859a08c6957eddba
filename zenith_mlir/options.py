"""Options of passes: from the text in a pipeline to the fields of a dataclass, and back."""

from __future__ import annotations

import dataclasses
import enum
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from zenith_mlir.errors import OptionError, ZenithError, did_you_mean

if TYPE_CHECKING:
    from zenith_mlir.registry import Pass

__all__ = ["Option", "format_options", "make_pass", "options_of"]

_BOOLS = {
    "true": True,
    "1": True,
    "on": True,
    "yes": True,
    "false": False,
    "0": False,
    "off": False,
    "no": False,
}


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a pass as the command line sees it: `min-seq`, its type, default and help."""

    name: str
    field: str
    type: Any
    default: Any
    help: str

    def __str__(self) -> str:
        return f"{self.name}=<{type_name(self.type)}>, default {format_value(self.default)}"


def options_of(cls: type[Pass]) -> dict[str, Option]:
    """The options of a pass by their textual names."""
    hints = typing.get_type_hints(cls)
    options = (
        Option(f.name.replace("_", "-"), f.name, hints[f.name], f.default, f.metadata.get("help", ""))
        for f in dataclasses.fields(cls)
        if f.init
    )
    return {option.name: option for option in options}


def make_pass(cls: type[Pass], texts: Mapping[str, str]) -> Pass:
    """The pass with its options set from text.

    Raises:
        OptionError: for an option the pass does not have, or a value its type does not accept.
    """
    options = options_of(cls)
    values = {}
    for name, text in texts.items():
        option = options.get(name.replace("_", "-"))
        if option is None:
            valid = "; ".join(map(str, options.values())) or "it has none"
            raise OptionError(f"{cls.name} has no option {name}{did_you_mean(name, options)}; valid options: {valid}")
        try:
            values[option.field] = parse_value(option.type, text)
        except (ValueError, TypeError, ArithmeticError) as error:
            why = f": {error}" if isinstance(error, ZenithError) else ""
            raise OptionError(f"{cls.name}: option {option} cannot be {text!r}{why}") from None
    try:
        return cls(**values)
    except ValueError as error:  # a check in __post_init__
        raise OptionError(f"{cls.name}: {error}") from None


def format_options(self: Pass) -> str:
    """`{min-seq=64 layout="a b"}` for the options that differ from their defaults, else the empty string."""
    changed = [
        f"{option.name}={format_value(getattr(self, option.field))}"
        for option in options_of(type(self)).values()
        if getattr(self, option.field) != option.default
    ]
    return f"{{{' '.join(changed)}}}" if changed else ""


def parse_value(kind: Any, text: str) -> Any:
    """A value of type `kind` from its text; ValueError where the text is none."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {str(choice): choice for choice in arguments}[text] if text in map(str, arguments) else _refuse(text)
    if origin in (Union, types.UnionType):
        return _parse_union(arguments, text)
    if origin is tuple:
        return tuple(parse_value(arguments[0], part.strip()) for part in text.split(",")) if text else ()
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(text)
    if hasattr(kind, "parse"):
        return kind.parse(text)
    return _SCALARS[kind](text)


def type_name(kind: Any) -> str:
    """A type as `--explain` shows it: `int`, `a|b`, `int,...`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return "|".join("none" if a is types.NoneType else type_name(a) for a in arguments)
    if origin is tuple:
        return f"{type_name(arguments[0])},..."
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "|".join(str(member.value) for member in kind)
    return str(getattr(kind, "__name__", kind))


def format_value(value: Any) -> str:
    """The inverse of `parse_value`, quoted where a pipeline needs it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        value = ",".join(format_value(part) for part in value)
    text = str(value.value if isinstance(value, enum.Enum) else value)
    if re.fullmatch(r"[^\s{}()\"'=]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _parse_union(choices: tuple[Any, ...], text: str) -> Any:
    if types.NoneType in choices and text.lower() == "none":
        return None
    for choice in choices:
        if choice is types.NoneType:
            continue
        try:
            return parse_value(choice, text)
        except ValueError:
            pass
    return _refuse(text)


def _parse_bool(text: str) -> bool:
    return _BOOLS[text.lower()] if text.lower() in _BOOLS else _refuse(text)


def _parse_int(text: str) -> int:
    return int(text, 0)


def _refuse(text: str) -> Any:
    raise ValueError(text)


_SCALARS: dict[Any, Callable[[str], Any]] = {bool: _parse_bool, int: _parse_int, float: float, str: str}
