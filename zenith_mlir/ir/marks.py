"""Marks on operations that passes carry along: numbers in the metadata of locations.

A pass gives what it makes of an operation the location of that operation, so that the user's line survives; the mark
survives with it. Nothing that looks for files, lines or names in a location sees it.
"""

from __future__ import annotations

from jaxlib.mlir import ir

__all__ = ["mark", "mark_of"]

_PREFIX = "zenith.mark "


def mark(op: ir.Operation, number: int) -> None:
    """Mark `op` by `number`, beside any file and name that its location holds."""
    op.location = ir.Location.fused([op.location], ir.StringAttr.get(f"{_PREFIX}{number}"))


def mark_of(location: ir.Location) -> int | None:
    """The mark in `location`; of what was inlined its own, else that of the call. None without one, or if operations
    of several marks were fused into one.
    """
    match location:
        case ir.FusedLoc():
            number = _number(location.metadata)
            return number if number is not None else _only([mark_of(part) for part in location.locations])  # type: ignore[arg-type]  # jaxlib's stub says object
        case ir.NameLoc():
            return mark_of(location.child_loc)
        case ir.CallSiteLoc():
            own = mark_of(location.callee)
            return own if own is not None else mark_of(location.caller)
    return None


def _number(metadata: ir.Attribute | None) -> int | None:
    text = None if metadata is None else metadata.maybe_downcast()
    if not isinstance(text, ir.StringAttr) or not text.value.startswith(_PREFIX):
        return None
    return int(text.value.removeprefix(_PREFIX))


def _only(numbers: list[int | None]) -> int | None:
    found = {number for number in numbers if number is not None}
    return found.pop() if len(found) == 1 else None
