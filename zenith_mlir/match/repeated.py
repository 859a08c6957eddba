"""Which composites of a program are computed a second time for the gradient, as jax.checkpoint asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from jaxlib.mlir import ir

from zenith_mlir.ir.composites import composite_attributes, composite_name
from zenith_mlir.ir.facts import defining_op, enclosing, walk_named

# A repeated layer lies between its barrier and the composite; what is further up belongs to other layers.
_MAX_STEPS = 2000
# What may differ between a composite and its repetition.
_OWN = ("escapes", "residuals")


def what_it_says(composite: ir.Operation) -> str:
    """The name and attributes of `composite`, and the types of its operands."""
    attributes = composite_attributes(composite)
    named = [attributes[i] for i in range(len(attributes))]
    facts = [f"{item.name}={item.attr}" for item in named if item.name not in _OWN]
    return "; ".join([composite_name(composite), *facts, *(str(value.type) for value in composite.operands)])


def repetitions(
    composites: Sequence[tuple[ir.Operation, bool]], says: Callable[[ir.Operation], str] = what_it_says
) -> set[ir.Operation]:
    """Those of `composites`, given with whether they have a gradient beside them, that repeat an earlier one without.

    A repetition says the same of operands of the same types, and stands behind an optimization_barrier or in a loop
    that takes what the loop of the first saved.
    """
    waiting: dict[str, list[ir.Operation]] = {}
    found = set()
    for composite, has_gradient in composites:
        key = says(composite)
        if not has_gradient:
            waiting.setdefault(key, []).append(composite)
            continue
        first = next((op for op in waiting.get(key, []) if _repeats(composite, op)), None)
        if first is not None:
            waiting[key].remove(first)
            found.add(composite)
    return found


def _repeats(composite: ir.Operation, first: ir.Operation) -> bool:
    if composite.block == first.block:
        return behind_barrier(composite)
    here, there = (enclosing(op, "stablehlo.while") for op in (composite, first))
    return here is not None and there is not None and here != there and _reads_rows(here, there)


def _reads_rows(loop: ir.Operation, earlier: ir.Operation) -> bool:
    """Whether `loop` reads rows of what `earlier` stacked, carried along or captured."""
    arguments = zip(loop.regions[1].blocks[0].arguments, loop.operands, strict=True)
    stacks = {*earlier.results, *(argument for argument, given in arguments if given in list(earlier.results))}
    return any(op.operands[0] in stacks for op in walk_named(loop, "stablehlo.dynamic_slice"))


def behind_barrier(composite: ir.Operation) -> bool:
    """Whether an operand of `composite` comes through an optimization_barrier of its block."""
    frontier = deque(composite.operands)
    seen: set[ir.Operation] = set()
    while frontier and len(seen) < _MAX_STEPS:
        op = defining_op(frontier.popleft())
        if op is None or op in seen or op.block != composite.block:
            continue
        if op.name == "stablehlo.optimization_barrier":
            return True
        seen.add(op)
        frontier.extend(op.operands)
    return False
