"""Matching a value against a matcher: depth-first search with backtracking that remembers how far it came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jaxlib.mlir import ir

from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.facts import defining_op, splat, users

__all__ = ["Match", "Matcher", "Miss", "PatternError", "State", "match"]


class PatternError(ZenithError):
    """A pattern that is written wrongly: it says nothing that could be matched, or its rewrite does not
    fit."""


@dataclass(frozen=True)
class Match:
    """A value that fits a pattern.

    `captures` are the values by name (`match["x"]` for short); `numbers` those captures that are scalars
    known at compile time, as Python numbers; `sizes` the dimensions that a traced pattern named, a tuple for
    `*b`; `ops` the matched operations, operands before users, constants left out.
    """

    value: ir.Value
    captures: Mapping[str, ir.Value]
    numbers: Mapping[str, int | float | bool]
    sizes: Mapping[str, int | tuple[int, ...]]
    ops: tuple[ir.Operation, ...]

    @property
    def op(self) -> ir.Operation:
        """The operation that computes `value`."""
        op = defining_op(self.value)
        assert op is not None  # an argument matches only patterns without operations
        return op

    def __getitem__(self, name: str) -> ir.Value:
        return self.captures[name]

    def escapes(self) -> list[ir.Operation]:
        """The matched operations, except the last, whose results somebody outside of the match uses too."""
        inside = set(self.ops)
        inner = [op for op in self.ops if op != self.op]
        return [op for op in inner if any(user not in inside for value in op.results for user in users(value))]


@dataclass(frozen=True)
class Miss:
    """Why a value does not fit: the deepest partial match. A `Miss` is false.

    `op` is the operation at which it ends (None for a value that no operation computes), `reason` says why in
    words, `matched` of the `needed` operations of the pattern did fit.
    """

    op: ir.Operation | None
    reason: str
    matched: int
    needed: int

    def __bool__(self) -> bool:
        return False

    @property
    def is_near(self) -> bool:
        """Whether a user would want to know: two operations and more than half of the pattern fitted."""
        return self.matched >= 2 and 2 * self.matched > self.needed


@dataclass
class _Trail:
    """The deepest failure of one search; of several equally deep ones the first, which is the operands' own
    order."""

    steps: int = -1
    matched: int = 0
    op: ir.Operation | None = None
    reason: str = ""


@dataclass(frozen=True)
class State:
    """What one branch of a search knows. Never changed: each step makes a new one, so that backtracking costs
    nothing."""

    trail: _Trail
    captures: Mapping[str, ir.Value] = field(default_factory=dict)
    numbers: Mapping[str, int | float | bool] = field(default_factory=dict)
    sizes: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    ops: tuple[ir.Operation, ...] = ()
    # Conditions on the whole match, checked once it is complete: each gives a reason against it, and where.
    claims: tuple[Callable[[State], tuple[ir.Operation, str] | None], ...] = ()
    # The operation whose operand is being matched, and which operand.
    user: ir.Operation | None = None
    index: int = 0
    # How many nodes of the pattern fitted so far.
    steps: int = 0
    # What the traced pattern being matched knows about its own values.
    local: Any = None

    def step(self, **changes: Any) -> State:
        """The state after one more node of the pattern fitted."""
        return replace(self, steps=self.steps + 1, **changes)

    def enter(self, op: ir.Operation) -> State:
        return self.step(ops=self.ops if op in self.ops else (*self.ops, op))

    def at(self, op: ir.Operation, index: int) -> State:
        return replace(self, user=op, index=index)

    def bind(self, name: str, value: ir.Value) -> State | None:
        """With `name` standing for `value`; None, and a miss, if it stands for another one already."""
        bound = self.captures.get(name)
        if bound is None:
            return self.step(captures={**self.captures, name: value})
        if bound == value:
            return self.step()
        self.miss(f"{name} stands for two different values, {describe(bound)} and {describe(value)}")
        return None

    def miss(self, reason: str, op: ir.Operation | None = None) -> None:
        """Note that this branch ends here."""
        if self.steps > self.trail.steps:
            trail = self.trail
            trail.steps, trail.matched, trail.op, trail.reason = (
                self.steps,
                len(self.ops),
                op or self.user,
                reason,
            )

    def mismatch(self, value: ir.Value, wanted: object) -> None:
        """Note that this branch ends because `value` is not what is wanted."""
        where = "" if self.user is None else f"operand {self.index + 1} of {short_name(self.user)} is "
        self.miss(f"{where}{describe(value)}, not {wanted}", self.user or defining_op(value))


@dataclass(frozen=True)
class Matcher:
    """One node of a pattern. `str(matcher)` names it in a miss: "a maximum", "the constant 0"."""

    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        """Every way in which `value` fits, each as the state after it; none, and a note in `state.trail`, if
        it does not."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """How many operations it matches, at least."""
        return 0

    @property
    def roots(self) -> frozenset[str] | None:
        """Names of the operations whose results it can match; None if any."""
        return None


def match(target: ir.Value | ir.Operation, pattern: Matcher, single_use: bool = False) -> Match | Miss:
    """Match a value, or the first result of an operation, against `pattern`; the first of several matches is
    taken.

    With `single_use` nothing but the match may use the values inside of it.
    """
    value = target if isinstance(target, ir.Value) else target.operation.results[0]
    trail = _Trail()
    start = State(trail, claims=(_closed(value),) if single_use else ())
    for state in pattern.search(value, start):
        failed = next((reason for claim in state.claims if (reason := claim(state)) is not None), None)
        if failed is None:
            return _match(value, state)
        state.miss(failed[1], failed[0])
    return Miss(trail.op, trail.reason, trail.matched, pattern.size)


def _match(value: ir.Value, state: State) -> Match:
    ops = tuple(op for op in _operands_first(state.ops) if op.name != "stablehlo.constant")
    return Match(value, state.captures, state.numbers, state.sizes, ops)


def _closed(value: ir.Value) -> Callable[[State], tuple[ir.Operation, str] | None]:
    def claim(state: State) -> tuple[ir.Operation, str] | None:
        for op in _match(value, state).escapes():
            return op, f"the result of {short_name(op)} is used elsewhere too"
        return None

    return claim


def _operands_first(ops: tuple[ir.Operation, ...]) -> tuple[ir.Operation, ...]:
    """`ops` in an order in which each follows the operations whose results it uses."""
    pending, ordered = set(ops), []

    def visit(op: ir.Operation) -> None:
        if op in pending:
            pending.remove(op)
            for operand in op.operands:
                producer = defining_op(operand)
                if producer is not None:
                    visit(producer)
            ordered.append(op)

    for op in ops:
        visit(op)
    return tuple(ordered)


def short_name(op: ir.Operation) -> str:
    """The name of an operation without `stablehlo.` or `chlo.`."""
    return op.name.removeprefix("stablehlo.").removeprefix("chlo.")


def describe(value: ir.Value) -> str:
    """A value in words: "a maximum", "the constant 0.5", "an argument"."""
    op = defining_op(value)
    if op is None:
        return "an argument"
    number = splat(value)
    return f"the constant {number:g}" if number is not None else with_article(short_name(op))


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
