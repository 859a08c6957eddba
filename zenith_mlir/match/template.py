"""The matcher that a traced function becomes: its operations, with sizes and constants as functions of the
named dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import numpy_dtype
from zenith_mlir.ir.facts import blocks, defining_op, element_type, has_static_shape, int_list, shape, splat
from zenith_mlir.ir.symbols import functions
from zenith_mlir.match.ops import Check, OneOf, Operation
from zenith_mlir.match.search import Matcher, PatternError, State, short_name
from zenith_mlir.match.sizes import ArgumentType, Constant, Product, Sizes, read_constant, read_size
from zenith_mlir.module import Module

__all__ = ["Local", "Template", "read_template"]


@dataclass(frozen=True)
class Local:
    """What a branch of the search knows about one traced pattern: the values of its shared nodes, the sizes
    of its dimensions, and conditions to check once all of these are known."""

    nodes: Mapping[int, ir.Value] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    products: tuple[tuple[Product, int], ...] = ()
    constants: tuple[tuple[Constant, ir.Value], ...] = ()


@dataclass(frozen=True)
class Template:
    """A traced function as a matcher `root`, for one element type and one rank of the starred dimension."""

    root: Matcher
    dtype: str
    rank: int
    size: int
    star: str

    def contradiction(self, local: Local) -> str | None:
        """What is wrong with a match of `root`, now that all sizes are known."""
        for product, found in local.products:
            if product(local.sizes) != found:
                return f"a dimension is {found} where the pattern has {product} = {product(local.sizes)}"
        for constant, value in local.constants:
            number, dtype = splat(value), numpy_dtype(element_type(value))
            assert number is not None
            assert dtype is not None
            if not constant.fits(number, dtype, local.sizes):
                return f"a constant is {number:g} where the pattern has {constant} = {constant(local.sizes):g}"
        return None

    def sizes(self, local: Local) -> dict[str, int | tuple[int, ...]]:
        named: dict[str, int | tuple[int, ...]] = {name: size for name, size in local.sizes.items() if "[" not in name}
        if self.star:
            starred = {name: size for name, size in local.sizes.items() if name.startswith(f"{self.star}[")}
            named[self.star] = tuple(starred[f"{self.star}[{i}]"] for i in range(len(starred)))
        return named


def read_template(
    name: str,
    arguments: Mapping[str, ArgumentType],
    modules: tuple[Module, Module],
    sizes: tuple[Sizes, Sizes],
    star: str,
) -> Template:
    """The template of the function `name` from its two canonical modules, traced with `sizes`.

    Raises: PatternError where the program is not one for all sizes.
    """
    reader = _Reader(name, arguments, sizes)
    bodies = [functions(module.operation)["main"].regions[0].blocks[0] for module in modules]
    results = [list(list(body.operations)[-1].operands) for body in bodies]
    if len(results[0]) != 1:
        raise PatternError(f"{name} returns {len(results[0])} arrays; a pattern is one value, write one for each")
    (result_a,), (result_b,) = results
    if defining_op(result_a) is None:
        raise PatternError(f"{name} returns its argument, which matches every value")
    root = reader.matcher(result_a, result_b)
    unused = [arg for arg, value in zip(arguments, bodies[0].arguments, strict=True) if value not in reader.seen]
    if unused:
        raise PatternError(f"{name} does not use {', '.join(unused)}, so nothing says what it would be; drop it")
    return Template(root, str(element_type(result_a)), len(shape(result_a)), len(reader.operations), star)


class _Reader:
    """Walks both traces together, from the result up."""

    def __init__(self, name: str, arguments: Mapping[str, ArgumentType], sizes: tuple[Sizes, Sizes]) -> None:
        self.name, self.arguments, self.sizes = name, list(arguments.items()), sizes
        self.seen: dict[ir.Value, Matcher] = {}
        self.operations: set[ir.Operation] = set()

    def matcher(self, a: ir.Value, b: ir.Value) -> Matcher:
        if a not in self.seen:
            self.seen[a] = self._read(a, b)
        return self.seen[a]

    def _read(self, a: ir.Value, b: ir.Value) -> Matcher:
        op_a, op_b = defining_op(a), defining_op(b)
        if op_a is None or op_b is None:
            if op_a is not op_b or ir.BlockArgument(a).arg_number != ir.BlockArgument(b).arg_number:
                raise self._varies("different programs")
            return Argument(*self.arguments[ir.BlockArgument(a).arg_number])
        if op_a.name != op_b.name or len(op_a.operands) != len(op_b.operands):
            raise self._varies(f"{short_name(op_a)} in one and {short_name(op_b)} in the other")
        return self._constant(a, b) if op_a.name == "stablehlo.constant" else self._operation(a, b, op_a, op_b)

    def _constant(self, a: ir.Value, b: ir.Value) -> Matcher:
        numbers, dtype = (splat(a), splat(b)), numpy_dtype(element_type(a))
        if numbers[0] is None or numbers[1] is None or dtype is None:
            raise PatternError(f"{self.name} holds a constant that is not one number, {a.type}; make it an argument")
        constant = read_constant((numbers[0], numbers[1]), dtype, self.sizes)
        if constant is None:
            raise self._varies(f"a constant {numbers[0]:g} in one and {numbers[1]:g} in the other")
        return TemplateConstant(constant, self._type(a, b))

    def _operation(self, a: ir.Value, b: ir.Value, op_a: ir.Operation, op_b: ir.Operation) -> Matcher:
        if op_a.name in _OPAQUE or not _has_scalar_bodies(op_a):
            raise PatternError(f"{self.name} holds a {short_name(op_a)}; a pattern is straight-line code")
        self.operations.add(op_a)
        checks: list[Check] = [self._type(a, b), *self._attributes(op_a, op_b)]
        if op_a.regions:
            bodies = region_text(op_a)
            if bodies != region_text(op_b):
                raise self._varies(f"the body of {short_name(op_a)}")
            checks.append(SameBody(bodies))
        operands = tuple(map(self.matcher, op_a.operands, op_b.operands))
        number = ir.OpResult(a).result_number
        node: Matcher = Node(op_a.name, operands, tuple(checks), result=number, number=len(self.seen))
        if (
            op_a.name == "stablehlo.broadcast_in_dim"
            and isinstance(operands[0], Argument)
            and not operands[0].type.dims
        ):
            return OneOf((ScalarConstant(operands[0]), node))
        return node

    def _type(self, a: ir.Value, b: ir.Value) -> HasType:
        dims = [self._size(pair, f"the shape of {a.type}") for pair in zip(shape(a), shape(b), strict=True)]
        return HasType(str(element_type(a)), tuple(dims), ir.OpResult(a).result_number)

    def _attributes(self, op_a: ir.Operation, op_b: ir.Operation) -> Iterator[Check]:
        of_a, of_b = attributes(op_a), attributes(op_b)
        for name, value in of_a.items():
            if isinstance(value, ir.DenseI64ArrayAttr):
                pairs = zip(int_list(op_a, name), int_list(op_b, name), strict=True)
                yield HasNumbers(name, tuple(self._size(pair, f"{name} of {short_name(op_a)}") for pair in pairs))
            elif str(value) != str(of_b[name]):
                raise self._varies(f"{name} of {short_name(op_a)} is {value} in one and {of_b[name]} in the other")
        plain = {name: str(value) for name, value in of_a.items() if not isinstance(value, ir.DenseI64ArrayAttr)}
        yield HasAttributes(plain, frozenset(of_a))

    def _size(self, numbers: tuple[int, int], where: str) -> Product:
        product = read_size(numbers, self.sizes)
        if product is None:
            raise self._varies(
                f"{where} holds {numbers[0]} in one and {numbers[1]} in the other, no product of dimensions"
            )
        return product

    def _varies(self, what: str) -> PatternError:
        a, b = (", ".join(f"{name}={size}" for name, size in known.items()) for known in self.sizes)
        return PatternError(f"{self.name} is not one program for all sizes: traced with {a} and with {b} it has {what}")


# Operations whose meaning is not all in their operands and attributes.
_OPAQUE = frozenset({"stablehlo.while", "stablehlo.if", "stablehlo.case", "func.call", "stablehlo.composite"})


def _has_scalar_bodies(op: ir.Operation) -> bool:
    """Whether the operation's regions are functions of scalars (reduce, sort, scatter), which hold no
    sizes."""
    return all(not shape(arg) for block in blocks(op) for arg in block.arguments)


# ---- Nodes ----


@dataclass(frozen=True)
class Argument(Matcher):
    """A parameter of the function: any value of its type."""

    name: str
    type: ArgumentType

    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        if (
            not has_static_shape(value)
            or str(element_type(value)) != self.type.dtype
            or len(shape(value)) != len(self.type.dims)
        ):
            state.miss(f"{self.name} is {value.type}, not {self}")
            return
        number = None if self.type.dims else splat(value)
        bound = state.bind(self.name, value) if number is None else bind_number(self.name, number, value, state)
        for dim, size in zip(self.type.dims, shape(value), strict=True):
            bound = None if bound is None else self._bind_size(dim, size, bound)
        if bound is not None:
            yield bound

    def _bind_size(self, dim: str | int, size: int, state: State) -> State | None:
        local: Local = state.local
        known = local.sizes.get(dim, size) if isinstance(dim, str) else dim
        if known != size:
            state.miss(f"{dim} is {size} in {self.name}" + (f" and {known} elsewhere" if isinstance(dim, str) else ""))
            return None
        sizes = {**local.sizes, dim: size} if isinstance(dim, str) else local.sizes
        return replace(state, local=replace(local, sizes=sizes))

    def __str__(self) -> str:
        return f"{self.type.dtype}[{' '.join(map(str, self.type.dims))}]"


def bind_number(name: str, number: int | float | bool, value: ir.Value, state: State) -> State | None:
    """A scalar parameter that is a constant here; wherever it is used it must be the same number."""
    if name in state.captures and state.numbers.get(name) != number:
        state.miss(f"{name} stands for two different values")
        return None
    return state.step(captures={**state.captures, name: value}, numbers={**state.numbers, name: number})


@dataclass(frozen=True)
class ScalarConstant(Matcher):
    """A broadcast scalar parameter that is a constant here, which the canonical form keeps in its full
    shape."""

    argument: Argument

    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        number = splat(value)
        if number is None or str(element_type(value)) != self.argument.type.dtype:
            return
        bound = bind_number(self.argument.name, number, value, state)
        if bound is not None:
            yield bound

    @property
    def roots(self) -> frozenset[str]:
        return frozenset({"stablehlo.constant"})


@dataclass(frozen=True)
class TemplateConstant(Matcher):
    constant: Constant
    type: HasType

    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        number, op = splat(value), defining_op(value)
        dtype = numpy_dtype(element_type(value)) if has_static_shape(value) else None
        is_literal = self.constant.product is None
        if number is None or op is None or dtype is None or (is_literal and not self.constant.fits(number, dtype, {})):
            state.mismatch(value, f"the constant {self.constant}")
            return
        local: Local = state.local
        pending = local if is_literal else replace(local, constants=(*local.constants, (self.constant, value)))
        outcome = self.type(op, state.step(local=pending))
        if isinstance(outcome, str):
            state.miss(outcome)
        else:
            yield outcome

    roots = frozenset({"stablehlo.constant"})


@dataclass(frozen=True)
class Node(Operation):
    """An operation of the function. It may be used several times: it then is one operation wherever it is
    met."""

    number: int = 0

    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        known = state.local.nodes.get(self.number)
        if known is not None:
            if known == value:
                yield state.step()
            else:
                state.mismatch(value, "the one that the pattern uses twice")
        else:
            for found in super().search(value, state):
                local: Local = found.local
                yield replace(found, local=replace(local, nodes={**local.nodes, self.number: value}))


# ---- Checks of one operation ----


@dataclass(frozen=True)
class HasType:
    """The type of a result: its element type now, its sizes once they are known."""

    dtype: str
    dims: tuple[Product, ...]
    result: int = 0

    def __call__(self, op: ir.Operation, state: State) -> State | str:
        value = op.results[self.result]
        if not has_static_shape(value) or str(element_type(value)) != self.dtype or len(shape(value)) != len(self.dims):
            return f"{short_name(op)} gives {value.type}, not {self.dtype} of {len(self.dims)} dimensions"
        local: Local = state.local
        return replace(
            state,
            local=replace(local, products=(*local.products, *zip(self.dims, shape(value), strict=True))),
        )


@dataclass(frozen=True)
class HasNumbers:
    """An attribute that is a list of integers, of which some may be sizes."""

    name: str
    expected: tuple[Product, ...]

    def __call__(self, op: ir.Operation, state: State) -> State | str:
        found = int_list(op, self.name)
        literal = [None if product.names else product.coefficient for product in self.expected]
        if len(found) != len(literal) or any(e is not None and e != f for e, f in zip(literal, found, strict=True)):
            return f"{self.name} of {short_name(op)} is {found}, not [{', '.join(map(str, self.expected))}]"
        local: Local = state.local
        return replace(state, local=replace(local, products=(*local.products, *zip(self.expected, found, strict=True))))


@dataclass(frozen=True)
class HasAttributes:
    """All attributes other than lists of integers, as text; discardable ones (`mhlo.sharding`) do not
    count."""

    expected: Mapping[str, str]
    known: frozenset[str]

    def __call__(self, op: ir.Operation, state: State) -> State | str:
        found = attributes(op)
        for name in self.expected.keys() | (found.keys() - self.known):
            here, wanted = _meaning(name, found.get(name)), _meaning(name, self.expected.get(name))
            if "." not in name and here != wanted:
                return f"{name} of {short_name(op)} is {here or 'absent'}, not {wanted or 'absent'}"
        return state

    def __hash__(self) -> int:
        return hash(self.known)


# Attributes that some writers spell out and some leave away, and the words by which they say more than their
# absence does.
_OPTIONAL = {
    "compare_type": ("TOTALORDER",),
    "precision_config": ("HIGH",),
    "result_accuracy": ("HIGHEST", "TOLERANCE"),
}


def _meaning(name: str, value: Any) -> str:
    """An attribute as text, empty where it says no more than its absence."""
    text = "" if value is None else str(value)
    return text if name not in _OPTIONAL or any(word in text for word in _OPTIONAL[name]) else ""


@dataclass(frozen=True)
class SameBody:
    """The regions of an operation, which are functions of scalars."""

    expected: str

    def __call__(self, op: ir.Operation, state: State) -> State | str:
        return state if region_text(op) == self.expected else f"{short_name(op)} applies another function"


def region_text(op: ir.Operation) -> str:
    """The regions of `op` with values numbered in order, the same for regions that do the same in the same
    order."""
    lines = []
    for block in blocks(op):
        numbers: dict[ir.Value, int] = {}
        for value in [
            *block.arguments,
            *(res for inner in block.operations for res in inner.operation.results),
        ]:
            numbers[value] = len(numbers)
        lines.append(", ".join(str(arg.type) for arg in block.arguments))
        for view in block.operations:
            inner = view.operation
            operands = [numbers.get(value, "outside") for value in inner.operands]
            plain = {name: str(value) for name, value in sorted(attributes(inner).items()) if "." not in name}
            lines.append(f"{inner.name} {operands} {plain} {[str(res.type) for res in inner.results]}")
    return "\n".join(lines)


def attributes(op: ir.Operation) -> dict[str, ir.Attribute]:
    """The attributes of an operation by name."""
    # Iterating an attribute map gives names on newer bindings and NamedAttributes on older ones.
    names = [named if isinstance(named, str) else named.name for named in op.attributes]
    return {name: op.attributes[name] for name in names}
