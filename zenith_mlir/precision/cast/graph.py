"""A program as nodes whose operands and results have ports: its values of float32 and of 16-bit floats."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import element_type
from zenith_mlir.ir.symbols import callee, functions, is_private
from zenith_mlir.precision.cast import joins
from zenith_mlir.precision.cast.classes import PRODUCTS, Kind, Port, can_be, name_of, ports_of
from zenith_mlir.precision.cast.policy import CastPolicy, Rule

_FLOATS = frozenset(["f32", "bf16", "f16"])
# Their regions are part of the operation, and computed in its type.
_REDUCTIONS = (
    "reduce",
    "reduce_window",
    "select_and_scatter",
    "scatter",
    "sort",
    "map",
    "all_reduce",
    "reduce_scatter",
)
_WHOLE = frozenset(f"stablehlo.{name}" for name in _REDUCTIONS)


@dataclass(frozen=True)
class Use:
    """Operand `number` of `op`, which wants it as `port` says."""

    op: ir.Operation
    number: int
    port: Port

    @property
    def value(self) -> ir.Value:
        value: ir.Value = self.op.operands[self.number]
        return value


@dataclass(eq=False)
class Node:
    """An operation, or values that have one type (`is_join`): its float operands, and its float results with the ports
    that give them. `rule` is what the user said of it.
    """

    op: ir.Operation
    kind: Kind
    uses: list[Use]
    results: list[tuple[ir.Value, Port]]
    rule: Rule | None = None
    is_join: bool = False

    @property
    def values(self) -> list[ir.Value]:
        return [value for value, _ in self.results]

    @property
    def is_tied(self) -> bool:
        """Whether it has a type of its own, which all TIED operands and results have."""
        return any(use.port == Port.TIED for use in self.uses) or any(p == Port.TIED for _, p in self.results)


@dataclass
class Graph:
    """Nodes by what they give and take.

    `sinks` are uses by operations that want values as they are: returns. `matched` are the rules that some operation
    matches, `unheard` the operations that cannot be what a rule says.
    """

    nodes: list[Node] = field(default_factory=list)
    maker: dict[ir.Value, Node] = field(default_factory=dict)
    readers: dict[ir.Value, list[tuple[Node, Use]]] = field(default_factory=dict)
    sinks: list[Use] = field(default_factory=list)
    matched: set[Rule] = field(default_factory=set)
    unheard: list[tuple[ir.Operation, Rule]] = field(default_factory=list)

    @classmethod
    def of(cls, module: ir.Operation, names: Collection[str], policy: CastPolicy) -> Graph:
        """The graph of the functions called `names`; calls of others are denied."""
        graph = cls()
        table = {name: func for name, func in functions(module).items() if name in names}
        joined = {name: func for name, func in table.items() if is_private(func) and func.regions[0].blocks}
        calls: dict[str, list[ir.Operation]] = {name: [] for name in joined}
        for func in table.values():
            for op in _walk(func):
                called = callee(op) if op.name == "func.call" else ""
                if called in joined:
                    calls[called].append(op)
                else:
                    graph._enter(op, policy)
        for name, func in joined.items():
            if calls[name]:
                graph._join(func, joins.call_joins(func, calls[name]))
            else:
                graph.sinks += _sinks(joins.terminator(func.regions[0].blocks[0]))
        for name, func in table.items():
            if name not in joined and func.regions[0].blocks:
                graph.sinks += _sinks(joins.terminator(func.regions[0].blocks[0]))
        return graph

    def _enter(self, op: ir.Operation, policy: CastPolicy) -> None:
        of_joins = joins.joins_of(op)
        if of_joins is not None:
            self._join(op, of_joins)
        elif op.name not in ("stablehlo.return", "func.return", "func.func"):
            rule = self._rule(op, policy)
            kind, ins, outs = ports_of(op, rule.kind if rule else None)
            if op.name == "stablehlo.convert":
                kind, ins, outs = Kind.CLEAR, [Port.FOLLOW], [Port.FULL]
            uses = [Use(op, i, port) for i, port in enumerate(ins) if is_float(op.operands[i])]
            results: list[tuple[ir.Value, Port]] = [
                (v, port) for v, port in zip(op.results, outs, strict=True) if is_float(v)
            ]
            if uses or results:
                self._add(Node(op, kind, uses, results, rule))

    def _rule(self, op: ir.Operation, policy: CastPolicy) -> Rule | None:
        found = [rule for rule in policy.rules if rule.matches(op)]
        self.matched.update(found)
        if found and not can_be(op, found[0].kind):
            self.unheard.append((op, found[0]))
            return None
        return found[0] if found else None

    def _join(self, op: ir.Operation, of_joins: list[joins.Join]) -> None:
        for operands, values in of_joins:
            if values and is_float(values[0]):
                uses = [Use(user, number, Port.TIED) for user, number in operands]
                self._add(Node(op, Kind.CLEAR, uses, [(value, Port.TIED) for value in values], is_join=True))

    def _add(self, node: Node) -> None:
        self.nodes.append(node)
        for value in node.values:
            self.maker[value] = node
        for use in node.uses:
            self.readers.setdefault(use.value, []).append((node, use))

    def behind(self, node: Node) -> Iterator[Node]:
        """The nodes that read what `node` gives."""
        for value in node.values:
            for reader, _ in self.readers.get(value, ()):
                yield reader


def is_float(value: ir.Value) -> bool:
    """Whether `value` is a tensor of float32 or of 16-bit floats."""
    return isinstance(value.type, ir.RankedTensorType) and str(element_type(value)) in _FLOATS


def is_wide(value: ir.Value) -> bool:
    """Whether `value` is a tensor of float32."""
    return isinstance(value.type, ir.RankedTensorType) and str(element_type(value)) == "f32"


def is_product(node: Node) -> bool:
    """Whether `node` is a product: a dot, a convolution or an attention, whatever its class."""
    return node.op.name in PRODUCTS or name_of(node.op).startswith(("zenith.attention", "zenith.matmul"))


def _walk(op: ir.Operation) -> Iterator[ir.Operation]:
    for region in op.regions:
        for block in region.blocks:
            for view in block.operations:
                child = view.operation
                yield child
                if child.name not in _WHOLE:
                    yield from _walk(child)


def _sinks(terminator: ir.Operation) -> list[Use]:
    return [Use(terminator, i, Port.FULL) for i, value in enumerate(terminator.operands) if is_float(value)]
