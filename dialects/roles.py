"""Specs of ops whose operands play roles: which operand plays each, how each is laid out, and steps that name them by
number.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from zenith_mlir.dialects.fields import field
from zenith_mlir.dialects.layout import Layout

_T = TypeVar("_T")


class RoleSpec:
    """A spec that has a layout for each of `ROLES`, for modifiers and for the result."""

    OP: ClassVar[str]
    ROLES: ClassVar[tuple[str, ...]]

    axes: dict[str, int]
    out: Layout
    modifiers: tuple[Layout, ...]
    sources: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sources:
            object.__setattr__(self, "sources", tuple(range(len(self.role_layouts))))

    @property
    def role_layouts(self) -> tuple[Layout, ...]:
        """The layout of each role."""
        return (*(getattr(self, name) for name in self.ROLES), *self.modifiers)

    @property
    def role_names(self) -> tuple[str, ...]:
        """What errors call each role."""
        return (*self.ROLES, *(f"modifier {i}" for i in range(len(self.modifiers))))

    def roles(self, operands: Sequence[_T]) -> list[_T]:
        """What plays each role, in their order: modifiers last."""
        return [operands[source] for source in self.sources]

    def verify(self, shapes: Sequence[Sequence[int]], result: Sequence[int]) -> None:
        """Check layouts against the shapes of operands and result.

        Raises: ValueError naming the role, the shape its layout means and the shape it has.
        """
        if set(self.sources) != set(range(len(shapes))):
            raise ValueError(f"{self.OP} has {len(shapes)} operands where its roles are played by {list(self.sources)}")
        names, layouts = (*self.role_names, "the result"), (*self.role_layouts, self.out)
        for name, layout, shape in zip(names, layouts, [*self.roles(shapes), result], strict=True):
            expected = layout.shape(self.axes)
            if tuple(shape) != expected:
                raise ValueError(
                    f'{self.OP}: {name} is laid out "{layout}" = {list(expected)}, but has shape {list(shape)}'
                )

    @classmethod
    def read(
        cls, attributes: Mapping[str, Any], step: type[_T], takes: Mapping[str, Collection[str]]
    ) -> dict[str, Any]:
        """The fields of this class from attributes; `takes` says what fields each kind of `step` has.

        Raises: ValueError naming what is missing or is no such thing.
        """
        needed = ("axes", *cls.ROLES, "out")
        missing = [name for name in needed if name not in attributes]
        if missing:
            raise ValueError(f"{cls.OP} lacks the attributes {', '.join(missing)}")
        optional = {"modifiers": [], "sources": [], "steps": []} | dict(attributes)
        layouts = {name: Layout.parse(field(cls.OP, attributes, name, str)) for name in needed[1:]}
        return {
            "axes": dict(field(cls.OP, attributes, "axes", dict)),
            **layouts,
            "modifiers": tuple(Layout.parse(text) for text in field(cls.OP, optional, "modifiers", list)),
            "sources": tuple(field(cls.OP, optional, "sources", list)),
            "steps": tuple(cls._step(fields, step, takes) for fields in field(cls.OP, optional, "steps", list)),
        }

    @classmethod
    def _step(cls, fields: Any, step: type[_T], takes: Mapping[str, Collection[str]]) -> _T:
        kind = str(fields["kind"]) if isinstance(fields, dict) and "kind" in fields else str(fields)
        if kind not in takes:
            raise ValueError(f"{cls.OP} has no step {kind!r}; there are {', '.join(takes)}")
        strange = [f"{name}={value!r}" for name, value in fields.items() if name not in ("kind", *takes[kind])]
        if strange:
            known = " and ".join(takes[kind]) or "nothing"
            raise ValueError(f"{cls.OP}: the step {kind!r} takes {known}, got {', '.join(strange)}")
        return step(**fields)
