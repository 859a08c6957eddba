"""Specs whose attributes are their fields, one for one: bool, int, float and str."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from jaxlib.mlir import ir

_KINDS: dict[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (float, int), "str": (str,)}


@dataclasses.dataclass(frozen=True)
class FlatSpec:
    """What the attributes of an op say."""

    OP: ClassVar[str]

    def to_attributes(self) -> dict[str, ir.Attribute]:
        """As attributes of a stablehlo.composite, in the current MLIR context."""
        from zenith_mlir.dialects.attributes import to_attribute

        return {name: to_attribute(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Self:
        """Read what `to_attributes` wrote, already turned into Python values. Other attributes are not looked at.

        Raises: ValueError naming an attribute that is missing and has no default, or that is no such thing.
        """
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.name not in attributes:
                cls.check(field.default is not dataclasses.MISSING, f"the attribute {field.name} is missing")
                continue
            value, kinds = attributes[field.name], _KINDS[str(field.type)]
            fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
            cls.check(fits, f"the attribute {field.name} is {value!r}, expected a {field.type}")
            values[field.name] = kinds[0](value)
        return cls(**values)

    @classmethod
    def check(cls, holds: bool, message: str) -> None:
        """Raises: ValueError with the op's name and `message`, unless it `holds`."""
        if not holds:
            raise ValueError(f"{cls.OP}: {message}")

    def shapes_by_name(self, names: Sequence[str], shapes: Sequence[Sequence[int]]) -> dict[str, tuple[int, ...]]:
        """The shapes of operands and results by `names`.

        Raises: ValueError if there are more or fewer.
        """
        expected = f"there are {len(shapes)} operands and results, expected {len(names)}: {', '.join(names)}"
        self.check(len(names) == len(shapes), expected)
        return {name: tuple(shape) for name, shape in zip(names, shapes, strict=True)}

    def check_shapes(self, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
        """Raises: ValueError naming what has another shape than expected."""
        for name, shape in expected.items():
            self.check(found[name] == shape, f"{name} has shape {list(found[name])}, expected {list(shape)}")
