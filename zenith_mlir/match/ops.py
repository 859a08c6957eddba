"""Op matchers: a pattern is written as the expression it matches::

    from zenith_mlir.match import ops as m

    square_relu = m.multiply(m.capture("y", m.maximum("x", 0.0)), "y")
    m.match(value, square_relu)            # Match with captures x and y, or Miss with a reason

Every StableHLO and CHLO operation is here under its own name (`and_`, `not_`, `if_` for Python's words);
`m.op` takes any other. Where a matcher is expected a string stands for `m.any(name)` and a number for
`m.constant(number)`. Keywords are attributes: a value to equal or a predicate, as in
`m.iota(iota_dimension=0)`. Commutative operations match in both orders. Patterns describe the canonical form,
which the pipeline `prepare` makes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import numpy_dtype
from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.errors import did_you_mean
from zenith_mlir.ir import facts
from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import (
    Number,
    defined_by,
    defining_op,
    element_type,
    has_static_shape,
    is_float,
    reduction,
    users,
)
from zenith_mlir.match.attention.softmax import find_softmax
from zenith_mlir.match.nomatch import NoMatch
from zenith_mlir.match.search import (
    Match,
    Matcher,
    Miss,
    PatternError,
    State,
    match,
    short_name,
    with_article,
)

__all__ = [
    "Match", "Matcher", "Miss", "PatternError", "any", "argument", "capture", "constant", "match", "one_of",
    "op", "reduce", "single_use", "softmax", "splat", "through", "where",
]  # fmt: skip

Operand = Matcher | str | Number
# Says whether an operation fits (the state goes on, perhaps knowing more) or why it does not.
Check = Callable[[ir.Operation, State], State | str]

COMMUTATIVE = frozenset(f"stablehlo.{name}" for name in ("add", "multiply", "maximum", "minimum", "and", "or", "xor"))


# ---- Leaves ----


@dataclass(frozen=True)
class AnyValue(Matcher):
    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        yield state.step()


@dataclass(frozen=True)
class Argument(Matcher):
    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        owner = value.owner
        if isinstance(owner, ir.Block) and owner.owner.operation.name == "func.func":
            yield state.step()
        else:
            state.mismatch(value, self)

    roots = frozenset()

    def __str__(self) -> str:
        return "an argument of the function"


@dataclass(frozen=True)
class Constant(Matcher):
    """`expected` is a number (rounded to the element type of what it meets), a predicate of one, or None for
    any."""

    expected: Number | Callable[[Number], bool] | None = None
    is_splat: bool = True

    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        if self._fits(value):
            yield state.step()
        else:
            state.mismatch(value, self)

    def _fits(self, value: ir.Value) -> bool:
        number = facts.splat(value)
        if number is None:
            return not self.is_splat and defined_by(value, "stablehlo.constant") is not None
        if self.expected is None:
            return True
        return self.expected(number) if callable(self.expected) else same_number(self.expected, number, value)

    roots = frozenset({"stablehlo.constant"})

    def __str__(self) -> str:
        if isinstance(self.expected, int | float):
            return f"the constant {self.expected:g}"
        return "a constant" if self.expected is None else "a constant that the pattern accepts"


def same_number(expected: Number, found: Number, value: ir.Value) -> bool:
    """Whether `found`, an element of `value`, is `expected` once that is rounded to the element type."""
    dtype = numpy_dtype(element_type(value))
    if dtype is None or dtype.kind in "iub":
        return expected == found
    with np.errstate(over="ignore"):
        rounded = np.asarray(expected, dtype).item()
    return rounded == found or (rounded != rounded and found != found)


# ---- Operations ----


@dataclass(frozen=True)
class Operation(Matcher):
    """A result of the operation `name`; `operands` is None where any will do."""

    name: str
    operands: tuple[Matcher, ...] | None
    checks: tuple[Check, ...] = ()
    has_more: bool = False
    result: int = 0

    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        op = defining_op(value)
        if op is None or op.name != self.name or value != op.results[self.result]:
            state.mismatch(value, self)
            return
        state = state.enter(op)
        for check in self.checks:
            outcome = check(op, state)
            if isinstance(outcome, str):
                state.miss(outcome, op)
                return
            state = outcome
        yield from self._search_operands(op, state)

    def _search_operands(self, op: ir.Operation, state: State) -> Iterator[State]:
        values = list(op.operands)
        if self.operands is None:
            yield state
            return
        few, many = len(values) < len(self.operands), len(values) > len(self.operands)
        if few or (many and not self.has_more):
            state.miss(f"{short_name(op)} has {len(values)} operands, not {len(self.operands)}", op)
            return
        yield from _search_each(self.operands, values, op, state, 0)
        if op.name in COMMUTATIVE and len(self.operands) == 2 and values[0] != values[1]:
            yield from _search_each(self.operands[::-1], values, op, state, 0)

    @property
    def size(self) -> int:
        return 1 + sum(operand.size for operand in self.operands or ())

    @property
    def roots(self) -> frozenset[str]:
        return frozenset({self.name})

    def __str__(self) -> str:
        return with_article(self.name.removeprefix("stablehlo.").removeprefix("chlo."))


def _search_each(
    matchers: Sequence[Matcher], values: Sequence[ir.Value], op: ir.Operation, state: State, index: int
) -> Iterator[State]:
    if index == len(matchers):
        yield state
        return
    for found in matchers[index].search(values[index], state.at(op, index)):
        yield from _search_each(matchers, values, op, found, index + 1)


@dataclass(frozen=True)
class HasAttribute:
    """A check that the attribute `name` equals `expected`, or that the predicate `expected` holds of it."""

    name: str
    expected: Any

    def __call__(self, op: ir.Operation, state: State) -> State | str:
        found = read_attribute(op, self.name)
        if callable(self.expected):
            return (
                state
                if self.expected(found)
                else f"{self.name} of {short_name(op)} is {found}, which the pattern refuses"
            )
        wanted = list(self.expected) if isinstance(self.expected, tuple) else self.expected
        return state if found == wanted else f"{self.name} of {short_name(op)} is {found}, not {wanted}"


def read_attribute(op: ir.Operation, name: str) -> Any:
    """An attribute in Python's terms: numbers, strings, lists, the word of an enum ("LT"), `DotDims`; None if
    it is absent."""
    if name == "dot_dimension_numbers":
        return DotDims.of(op)
    if name not in op.attributes:
        return None
    attribute = op.attributes[name]
    if isinstance(attribute, ir.DenseI64ArrayAttr | ir.DenseBoolArrayAttr | ir.DenseI32ArrayAttr):
        return list(attribute)
    if isinstance(attribute, ir.FlatSymbolRefAttr):
        return attribute.value
    return _words(from_attribute(attribute))


def _words(value: Any) -> Any:
    if isinstance(value, list):
        return [_words(item) for item in value]
    word = re.fullmatch(r"#\w+<\w+ (\w+)>", str(value)) if isinstance(value, ir.Attribute) else None
    return word[1] if word else value


# ---- Combinations ----


@dataclass(frozen=True)
class Capture(Matcher):
    name: str
    inner: Matcher

    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        for found in self.inner.search(value, state):
            bound = found.bind(self.name, value)
            if bound is not None:
                yield self._with_number(value, bound)

    def _with_number(self, value: ir.Value, state: State) -> State:
        number = facts.splat(value)
        if number is None or not isinstance(self.inner, Constant):
            return state
        return state.step(numbers={**state.numbers, self.name: number})

    @property
    def size(self) -> int:
        return self.inner.size

    @property
    def roots(self) -> frozenset[str] | None:
        return self.inner.roots


@dataclass(frozen=True)
class OneOf(Matcher):
    choices: tuple[Matcher, ...]

    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        for choice in self.choices:
            yield from choice.search(value, state)

    @property
    def size(self) -> int:
        return min(choice.size for choice in self.choices)

    @property
    def roots(self) -> frozenset[str] | None:
        names: set[str] = set()
        for choice in self.choices:
            if choice.roots is None:
                return None
            names |= choice.roots
        return frozenset(names)


@dataclass(frozen=True)
class Through(Matcher):
    shape_ops: frozenset[str]
    inner: Matcher

    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        yield from self.inner.search(value, state)
        op = defining_op(value)
        if op is not None and op.name in self.shape_ops:
            # Passing by is no progress of the pattern, so `steps` stays.
            passed = replace(state.enter(op), steps=state.steps)
            yield from self.search(op.operands[0], passed.at(op, 0))

    @property
    def size(self) -> int:
        return self.inner.size

    @property
    def roots(self) -> frozenset[str] | None:
        return None if self.inner.roots is None else self.inner.roots | self.shape_ops


@dataclass(frozen=True)
class Where(Matcher):
    inner: Matcher
    predicate: Callable[[ir.Value], bool]
    reason: str

    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        for found in self.inner.search(value, state):
            if self.predicate(value):
                yield found
            else:
                found.miss(self.reason, defining_op(value))

    @property
    def size(self) -> int:
        return self.inner.size

    @property
    def roots(self) -> frozenset[str] | None:
        return self.inner.roots


@dataclass(frozen=True)
class SingleUse(Matcher):
    inner: Matcher

    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        def claim(complete: State) -> tuple[ir.Operation, str] | None:
            for user in users(value):
                if user not in complete.ops:
                    return user, f"{short_name(user)} uses a value inside of the pattern too"
            return None

        for found in self.inner.search(value, state):
            yield replace(found, claims=(*found.claims, claim))

    @property
    def size(self) -> int:
        return self.inner.size

    @property
    def roots(self) -> frozenset[str] | None:
        return self.inner.roots


# ---- Ready-made ----


@dataclass(frozen=True)
class Softmax(Matcher):
    logits: Matcher
    axis: int | None

    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        exponentials = _exponentials(value)
        if not exponentials:
            state.mismatch(value, self)
        for exponential in exponentials:
            yield from self._search(value, exponential, state)

    def _search(self, value: ir.Value, exponential: ir.Operation, state: State) -> Iterator[State]:
        try:
            found = find_softmax(exponential)
        except NoMatch as miss:
            state.enter(exponential).enter(miss.op).miss(miss.reason, miss.op)
            return
        if found is None or found.sink is not None or found.probabilities != value:
            state.mismatch(value, self)
            return
        axis = found.view.index((found.axis,))
        rank = len(found.view)
        state = functools.reduce(State.enter, reversed(found.ops), state)
        if self.axis is not None and axis != self.axis % rank:
            state.miss(f"the softmax runs along dimension {axis}, not {self.axis % rank}", exponential)
            return
        yield from self.logits.search(found.logits, state.at(found.ops[0], 0))

    @property
    def size(self) -> int:
        return 4 + self.logits.size

    roots = frozenset({"stablehlo.divide", "stablehlo.multiply"})

    def __str__(self) -> str:
        return "a softmax"


def _exponentials(value: ir.Value) -> list[ir.Operation]:
    """The exponentials of which `value` may be the quotient by their sum."""
    op = defining_op(value)
    if op is None or op.name not in Softmax.roots or not has_static_shape(value) or not is_float(element_type(value)):
        return []
    candidates = [defining_op(operand) for operand in op.operands]
    bare = [c if c is None or c.name != "stablehlo.convert" else defining_op(c.operands[0]) for c in candidates]
    return [c for c in bare if c is not None and c.name == "stablehlo.exponential"]


_NEUTRAL: dict[str, Callable[[Number], bool]] = {
    "add": lambda x: x == 0,
    "multiply": lambda x: x == 1,
    "maximum": lambda x: x == float("-inf"),
    "minimum": lambda x: x == float("inf"),
    "and": bool,
    "or": lambda x: not x,
}


@dataclass(frozen=True)
class Reduces:
    """A check that a stablehlo.reduce applies one operation, starting from its neutral element."""

    kind: str

    def __call__(self, op: ir.Operation, state: State) -> State | str:
        found, start = reduction(op), facts.splat(op.operands[-1])
        if found != f"stablehlo.{self.kind}":
            applied = "another function" if found is None else found.removeprefix("stablehlo.")
            return f"reduce applies {applied}, not {self.kind}"
        return (
            state
            if start is not None and _NEUTRAL[self.kind](start)
            else f"reduce {self.kind} starts from another value"
        )


# ---- The vocabulary ----


def any(name: str = "") -> Matcher:
    """Any value, captured under `name` if that is given; one name stands for one value."""
    return Capture(name, AnyValue()) if name else AnyValue()


def capture(name: str, inner: Operand) -> Matcher:
    """What `inner` matches, captured under `name`; a constant is in `Match.numbers` too."""
    return Capture(name, as_matcher(inner))


def argument() -> Matcher:
    """An argument of the function."""
    return Argument()


def constant(value: Number | Callable[[Number], bool] | None = None) -> Matcher:
    """A constant; with `value` one that is filled with that number (rounded to its type), or with one of
    which `value` holds."""
    return Constant(value, is_splat=value is not None)


def splat(value: Number | Callable[[Number], bool] | None = None) -> Matcher:
    """A constant filled with one number, any or as for `constant`."""
    return Constant(value)


def one_of(*choices: Operand) -> Matcher:
    """The first of `choices` that fits, and the next if the rest of the pattern then fails."""
    if not choices:
        raise PatternError("m.one_of() matches nothing; give it at least one pattern")
    return OneOf(tuple(map(as_matcher, choices)))


def through(shape_ops: str | Sequence[str], inner: Operand) -> Matcher:
    """`inner`, perhaps behind any number of `shape_ops`: "convert", ("broadcast_in_dim", "reshape"), ..."""
    names = [shape_ops] if isinstance(shape_ops, str) else shape_ops
    return Through(frozenset(map(operation_name, names)), as_matcher(inner))


def where(inner: Operand, predicate: Callable[[ir.Value], bool], reason: str) -> Matcher:
    """`inner`, if `predicate` holds of the value; `reason` says to a user what is wrong if not."""
    return Where(as_matcher(inner), predicate, reason)


def single_use(inner: Operand) -> Matcher:
    """`inner`, if only matched operations use its value. Otherwise a value inside of a pattern may have other
    users."""
    return SingleUse(as_matcher(inner))


def softmax(logits: Operand, axis: int | None = None) -> Matcher:
    """softmax(logits) along `axis` (any if None), in the spellings that attention's matcher knows."""
    return Softmax(as_matcher(logits), axis)


def reduce(kind: str, operand: Operand, **attributes: Any) -> Matcher:
    """A reduction by `kind` ("add", "multiply", "maximum", "minimum", "and", "or") from its neutral element,
    e.g. `dimensions=[1]`."""
    if kind not in _NEUTRAL:
        raise PatternError(f"m.reduce knows {', '.join(_NEUTRAL)}, not {kind!r}{did_you_mean(kind, _NEUTRAL)}")
    return Operation("stablehlo.reduce", (as_matcher(operand),), (Reduces(kind), *_has(attributes)), has_more=True)


def op(name: str, *operands: Operand | EllipsisType, result: int = 0, **attributes: Any) -> Matcher:
    """Result number `result` of the operation of that full name, e.g. "sdy.sharding_constraint".

    Without `operands` any fit; a final `...` lets further ones follow.
    """
    has_more = bool(operands) and operands[-1] is ...
    fixed = tuple(as_matcher(operand) for operand in operands if operand is not ...)
    return Operation(name, fixed if operands else None, tuple(_has(attributes)), has_more, result)


def _has(attributes: dict[str, Any]) -> Iterator[Check]:
    return (HasAttribute(name, expected) for name, expected in attributes.items())


def as_matcher(operand: Operand) -> Matcher:
    if isinstance(operand, Matcher):
        return operand
    if isinstance(operand, str):
        return any(operand)
    if isinstance(operand, int | float):
        return constant(operand)
    raise PatternError(f"a pattern is made of matchers, names and numbers, not of {type(operand).__name__} {operand!r}")


def __getattr__(name: str) -> Callable[..., Matcher]:
    """Every operation of StableHLO and CHLO by its name: `m.add(a, b)`, `m.erf(x)`, `m.and_(p, q)`."""
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return functools.partial(op, operation_name(name))
    except PatternError as error:
        raise AttributeError(str(error)) from None


def operation_name(name: str) -> str:
    """The full name of a StableHLO or CHLO operation. Raises: PatternError if there is none."""
    if "." in name:
        return name
    bare = name.rstrip("_")
    for dialect in ("stablehlo", "chlo"):
        if f"{dialect}.{bare}" in _operation_names():
            return f"{dialect}.{bare}"
    known = [full.split(".", 1)[1] for full in _operation_names()]
    raise PatternError(f"StableHLO and CHLO have no operation {bare}{did_you_mean(bare, known)}")


@functools.cache
def _operation_names() -> frozenset[str]:
    # The names are class attributes of the generated wrappers, which cost 0.07 s to import: only who writes
    # patterns pays.
    from jaxlib.mlir.dialects import _chlo_ops_gen, _stablehlo_ops_gen

    classes = (*vars(_stablehlo_ops_gen).values(), *vars(_chlo_ops_gen).values())
    return frozenset(c.OPERATION_NAME for c in classes if hasattr(c, "OPERATION_NAME"))
