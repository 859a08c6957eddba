"""Rewrites: what to find, what to refuse, what to put there instead::

    class SquareRelu(Pattern):
        pattern = traced(lambda x: jax.nn.relu(x) ** 2, x="*b")
        numerics = "exact"

        def rewrite(self, match: Match) -> Replacement:
            return replace_with(lambda x: jnp.where(x <= 0, 0, x * x))

`apply_patterns(module, ctx, [SquareRelu()])` is then the body of a pass. What a rewrite puts in place is not
in canonical form; a pass that is to match it runs after another `simplify`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import numpy_dtype
from zenith_mlir.context import NUMERICS, Numerics, PassContext
from zenith_mlir.dialects.implementation import TensorSpec
from zenith_mlir.ir.facts import blocks, defining_op, element_type, has_static_shape, shape, walk, walk_named
from zenith_mlir.ir.splice import splice_function
from zenith_mlir.ir.symbols import functions
from zenith_mlir.match.search import Match, Matcher, Miss, PatternError, match
from zenith_mlir.match.traced import traced
from zenith_mlir.module import Module

__all__ = [
    "Match",
    "Miss",
    "Pattern",
    "PatternError",
    "Replacement",
    "apply_patterns",
    "match",
    "replace_with",
    "traced",
]


@dataclass(frozen=True)
class Replacement:
    """A JAX function that takes captures, by its parameters' names, and computes what the matched value is
    replaced by."""

    function: Callable[..., Any]


Rewritten = ir.Value | Sequence[ir.Value] | Replacement


def replace_with(function: Callable[..., Any]) -> Replacement:
    """What `Pattern.rewrite` returns to have a JAX function traced and put in the place of the match.

    Its parameters are names of captures. Those in `Match.numbers` arrive as Python numbers, all others as
    arrays. What it computes depends on these, on its closure and on nothing else.
    """
    return Replacement(function)


class Pattern:
    """One rewrite. A subclass sets `pattern` and defines `rewrite`; the rest has defaults.

    Attributes:
      pattern: op matchers or a traced function.
      composite: what remarks call the result, e.g. "zenith.gelu".
      numerics: the strictest policy that allows the rewrite: "exact" if it changes no bit, "sound" if its
        error against float64 is at most twice the original's, "fast" otherwise.
      single_use: whether values inside of the match may not be used elsewhere. If they are, the operations
        that compute them stay.
    """

    pattern: ClassVar[Matcher]
    composite: ClassVar[str] = ""
    numerics: ClassVar[Numerics] = "sound"
    single_use: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not isinstance(getattr(cls, "pattern", None), Matcher):
            raise PatternError(
                f"{cls.__name__} needs `pattern = ...`: op matchers (m.add(...)) or traced(function, x=...)"
            )
        if cls.numerics not in NUMERICS:
            raise PatternError(f"numerics of {cls.__name__} is one of {', '.join(NUMERICS)}, not {cls.numerics!r}")

    @property
    def name(self) -> str:
        """The name in remarks and statistics: the class's, as `square-relu`."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(self).__name__).lower()

    def check(self, match: Match) -> str | None:
        """Why this match is not to be rewritten, in a user's words; None if it is."""
        return None

    def rewrite(self, match: Match) -> Rewritten:
        """What replaces the match: a value of its type, built at the insertion point that is set, or
        `replace_with(function)`.

        It leaves the matched operations alone; those that nobody uses any more are erased afterwards.
        """
        raise NotImplementedError

    def facts(self, match: Match) -> Mapping[str, Any]:
        """What the passed remark says about the match."""
        return {"pattern": self.name, **match.sizes}


def apply_patterns(module: Module, ctx: PassContext, patterns: Sequence[Pattern]) -> int:
    """Rewrite every match in `module` until there is none; returns how many were rewritten.

    Users are tried before the operations they use, patterns in their order. A rewrite leaves a passed remark,
    a refused or near match that is still there at the end one missed remark; both are counted by the
    pattern's name. Functions that are decompositions of composites, bodies of reductions, and operations
    with several results are left as they are.

    Raises:
      PatternError: for a rewrite that gives another type than it matched, or that matches its own result for
        ever.
    """
    total = 0
    with module.context:
        for _ in range(_MAX_SWEEPS):
            sweep = _Sweep(module, ctx, patterns)
            rewritten = sweep.run()
            total += rewritten
            if not rewritten:
                sweep.report_missed()
                return total
    names = ", ".join(pattern.name for pattern in patterns)
    raise PatternError(
        f"{names}: still matches after {_MAX_SWEEPS} rounds of rewriting; it probably matches what it rewrites to"
    )


# A chain of n matches that feed one another is halved by each sweep.
_MAX_SWEEPS = 64


class _Sweep:
    """One visit of every operation of the module, the last first."""

    def __init__(self, module: Module, ctx: PassContext, patterns: Sequence[Pattern]) -> None:
        self.ctx, self.patterns = ctx, patterns
        self.pending = dict.fromkeys(_candidates(module.operation))
        self.rewritten = 0
        # The most telling miss at each operation where one ends; good as long as nothing is rewritten.
        self.missed: dict[ir.Operation, tuple[Pattern, Miss]] = {}

    def run(self) -> int:
        while self.pending:
            op, _ = self.pending.popitem()
            if len(op.results) == 1:
                self._visit(op)
        return self.rewritten

    def report_missed(self) -> None:
        for op, (pattern, miss) in self.missed.items():
            self.ctx.missed(op, pattern.composite, miss.reason, pattern=pattern.name)
            self.ctx.count(f"{pattern.name} missed")

    def _visit(self, op: ir.Operation) -> None:
        misses = []
        for pattern in self.patterns:
            if pattern.pattern.roots is not None and op.name not in pattern.pattern.roots:
                continue
            found = match(op, pattern.pattern, pattern.single_use)
            if isinstance(found, Match):
                refusal = _refusal(pattern, found, self.ctx)
                if refusal is None:
                    self._rewrite(pattern, found)
                    return
                found = Miss(op, refusal, len(found.ops) + 1, len(found.ops))
            if found.op is not None and (found.is_near or found.matched > found.needed):
                misses.append((pattern, found))
        if misses and not self.rewritten:
            pattern, deepest = max(misses, key=lambda entry: entry[1].matched)
            assert deepest.op is not None
            self.missed.setdefault(deepest.op, (pattern, deepest))

    def _rewrite(self, pattern: Pattern, found: Match) -> None:
        op = found.op
        self.rewritten += 1
        self.missed.clear()
        with ir.InsertionPoint(op), op.location:
            rewritten = pattern.rewrite(found)
            if isinstance(rewritten, Replacement):
                _splice(pattern, found, rewritten.function, self.ctx)
            else:
                found.value.replace_all_uses_with(_checked(pattern, found, rewritten))
        self.ctx.passed(op, pattern.composite, **pattern.facts(found))
        self.ctx.count(pattern.name)
        self._erase_unused(list(found.ops))

    def _erase_unused(self, ops: list[ir.Operation]) -> None:
        """Erase those of `ops`, operands before users, that nobody uses any more, and the constants that only
        they used."""
        for op in reversed(ops):
            if any(True for res in op.results for _ in res.uses):
                continue
            producers = {defining_op(operand) for operand in op.operands}
            for erased in (op, *walk(op)):
                self.pending.pop(erased, None)
            op.erase()
            self._erase_unused([p for p in producers if p is not None and p.name == "stablehlo.constant"])


def _refusal(pattern: Pattern, found: Match, ctx: PassContext) -> str | None:
    if NUMERICS.index(pattern.numerics) > NUMERICS.index(ctx.numerics):
        allowed, needed = ctx.numerics, pattern.numerics
        return f"{pattern.name} changes more than numerics={allowed} allows; it takes numerics={needed}"
    return pattern.check(found)


def _checked(pattern: Pattern, found: Match, rewritten: ir.Value | Sequence[ir.Value]) -> ir.Value:
    values = [rewritten] if isinstance(rewritten, ir.Value) else list(rewritten or ())
    types = ", ".join(str(value.type) for value in values)
    if len(values) != 1 or values[0].type != found.value.type:
        raise PatternError(
            f"{pattern.name} rewrites {found.value.type} to {types or 'nothing'}; one value of that type is expected"
        )
    if values[0] == found.value:
        raise PatternError(f"{pattern.name} rewrites a value to itself; refuse it in `check` instead")
    return values[0]


# Operations whose regions are part of the program; the regions of others (reduce, sort) are functions of
# scalars.
_CONTROL_FLOW = {
    "stablehlo.while",
    "stablehlo.if",
    "stablehlo.case",
    "sdy.manual_computation",
    "sdy.named_computation",
}


def _candidates(module: ir.Operation) -> Iterator[ir.Operation]:
    decompositions = {
        ir.FlatSymbolRefAttr(composite.attributes["decomposition"]).value
        for composite in walk_named(module, "stablehlo.composite")
    }
    for name, func in functions(module).items():
        if name not in decompositions:
            yield from _below(func)


def _below(op: ir.Operation) -> Iterator[ir.Operation]:
    for block in blocks(op):
        for child in block.operations:
            yield child.operation
            if child.operation.name in _CONTROL_FLOW:
                yield from _below(child.operation)


# ---- Splicing a JAX function ----


def _splice(pattern: Pattern, found: Match, function: Callable[..., Any], ctx: PassContext) -> None:
    """Replace the matched value by what `function` computes from the captures."""
    names = _parameters(pattern, found, function)
    numbers = {name: found.numbers[name] for name in names if name in found.numbers}
    arrays = {name: found[name] for name in names if name not in numbers}
    specs = tuple(_spec(pattern, name, value) for name, value in arrays.items())

    def positional(*operands: Any) -> Any:
        return function(**dict(zip(arrays, operands, strict=True)), **numbers)

    _check_result(pattern, found, positional, specs)
    # Stands for the function's result until its operations are there.
    placeholder = ir.Operation.create(
        "builtin.unrealized_conversion_cast", results=[found.value.type], operands=list(arrays.values())
    )
    found.value.replace_all_uses_with(placeholder.results[0])
    key = ("replace_with", _identity(function), tuple(arrays), tuple(numbers.items()), specs)
    platform = "cpu" if ctx.target.platform == "none" else ctx.target.platform
    splice_function(placeholder, key, positional, specs, platform)


def _parameters(pattern: Pattern, found: Match, function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    unknown = [p.name for p in parameters if p.name not in found.captures and p.default is p.empty]
    if unknown:
        raise PatternError(
            f"the function that {pattern.name} puts in place takes {', '.join(unknown)}; "
            f"the pattern captures {', '.join(found.captures) or 'nothing'}"
        )
    return [p.name for p in parameters if p.name in found.captures]


def _spec(pattern: Pattern, name: str, value: ir.Value) -> TensorSpec:
    dtype = numpy_dtype(element_type(value)) if has_static_shape(value) else None
    if dtype is None:
        raise PatternError(
            f"{pattern.name}: {name} is {value.type}, which no JAX function can be traced with; refuse it in `check`"
        )
    return TensorSpec(shape(value), dtype)


def _check_result(pattern: Pattern, found: Match, function: Callable[..., Any], specs: Sequence[TensorSpec]) -> None:
    import jax

    result = jax.eval_shape(function, *(jax.ShapeDtypeStruct(spec.shape, spec.dtype) for spec in specs))
    wanted = _spec(pattern, "the result", found.value)
    given = [TensorSpec(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(result)]
    if given != [wanted]:
        types = ", ".join(map(str, given)) or "nothing"
        raise PatternError(f"{pattern.name} rewrites {wanted} to {types}; its type must stay")


def _identity(function: Callable[..., Any]) -> Hashable:
    """What a function computes, as a key: the code and what it closes over. A `lambda` written in `rewrite`
    is a new object each time that it runs, and yet the same function."""
    code = getattr(function, "__code__", None)
    if code is None:
        return _hashable(function)
    cells = tuple(_hashable(cell.cell_contents) for cell in function.__closure__ or ())
    return (code, cells, _hashable(function.__defaults__))


def _hashable(value: Any) -> Hashable:
    if inspect.isfunction(value):
        return _identity(value)
    try:
        hash(value)
    except TypeError:
        return object()  # equal to nothing: traced anew each time
    return (type(value), value)
