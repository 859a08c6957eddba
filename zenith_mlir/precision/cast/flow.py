"""What lies behind products and before them, and what is made of denied operations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by
from zenith_mlir.precision.cast.classes import ANGLES, EXPONENTIALS, Kind, Port, name_of
from zenith_mlir.precision.cast.constants import holds
from zenith_mlir.precision.cast.graph import Graph, Node

_CARRIED_ON = (Kind.INFER, Kind.CLEAR, Kind.KEEP)
_READ = (Port.TIED, Port.SOFT, Port.LOW)
_GIVEN = (Port.TIED, Port.AUTO)


@dataclass(frozen=True)
class Flow:
    """Sets of values.

    after: made behind a product. before: on the way to one, past no operation that works on what is made of denied
    ones. before_denied: on the way to one at all. to_exponential: on the way to an exponential. denied: made of a
    denied operation. wide: made of a constant that a 16-bit type does not hold.
    """

    after: set[ir.Value]
    before: set[ir.Value]
    before_denied: set[ir.Value]
    to_exponential: set[ir.Value]
    denied: set[ir.Value]
    wide: set[ir.Value]

    @classmethod
    def of(cls, graph: Graph, products: Collection[Node], pinned: Collection[Node], dtype: str) -> Flow:
        """The flow around `products`, those that are cast; nothing flows through `pinned` nodes."""

        def passes(node: Node) -> bool:
            return node.kind in _CARRIED_ON and node not in pinned

        made = [v for node in graph.nodes if node.kind == Kind.DENY and node not in products for v in node.values]
        denied = forwards(graph, made, lambda node: passes(node) and not _is_norm(node))
        results = [
            v for node in products for v, port in node.results if node.op.name != _COMPOSITE or port == Port.AUTO
        ]
        read = [use.value for node in products for use in node.uses if use.port == Port.LOW]
        of_exponentials = reads_by(graph, EXPONENTIALS)
        return cls(
            after=forwards(graph, results, passes),
            before=backwards(graph, read, lambda node: passes(node) and not _is_made_of(node, denied)),
            before_denied=backwards(graph, read, passes),
            to_exponential=backwards(graph, of_exponentials, lambda node: passes(node) and not _is_norm(node)),
            denied=denied,
            wide=wide(graph, dtype),
        )


_COMPOSITE = "stablehlo.composite"


def wide(graph: Graph, dtype: str) -> set[ir.Value]:
    """What moves, adds and multiplies constants that `dtype` does not hold."""
    constants = {defined_by(value, "stablehlo.constant") for value in graph.readers} - {None}
    beyond = [op.results[0] for op in constants if op is not None and not holds(op, dtype)]
    return forwards(graph, beyond, lambda node: node.kind == Kind.CLEAR or node.op.name in _LINEAR)


_LINEAR = frozenset(f"stablehlo.{name}" for name in ("add", "subtract", "multiply", "negate"))


def to_angles(graph: Graph) -> set[ir.Value]:
    """What becomes the operand of a sine or cosine."""
    return backwards(graph, reads_by(graph, ANGLES), lambda node: node.kind in _CARRIED_ON)


def reads_by(graph: Graph, names: Collection[str]) -> list[ir.Value]:
    """What operations called `names` read."""
    return [use.value for node in graph.nodes if name_of(node.op) in names for use in node.uses]


def forwards(graph: Graph, start: Iterable[ir.Value], passes: Callable[[Node], bool]) -> set[ir.Value]:
    """`start` and what the nodes behind that it `passes` make of it."""

    def made_of(value: ir.Value) -> Iterator[ir.Value]:
        for node, use in graph.readers.get(value, ()):
            if passes(node) and (use.port in _READ or _is_open(node)):
                yield from (v for v, port in node.results if port in _GIVEN or _is_open(node))

    return _reached(start, made_of)


def backwards(graph: Graph, start: Iterable[ir.Value], passes: Callable[[Node], bool]) -> set[ir.Value]:
    """`start` and what the nodes before that it `passes` are made of."""

    def read_for(value: ir.Value) -> Iterator[ir.Value]:
        node = graph.maker.get(value)
        if node is not None and passes(node):
            yield from (use.value for use in node.uses if use.port in _READ or _is_open(node))

    return _reached(start, read_for)


def _reached(start: Iterable[ir.Value], next_to: Callable[[ir.Value], Iterable[ir.Value]]) -> set[ir.Value]:
    found: set[ir.Value] = set()
    frontier = list(start)
    while frontier:
        value = frontier.pop()
        if value not in found:
            found.add(value)
            frontier += next_to(value)
    return found


def _is_open(node: Node) -> bool:
    """Whether values pass, although the ports have fixed types."""
    return node.kind == Kind.KEEP or node.op.name == "stablehlo.convert"


def _is_norm(node: Node) -> bool:
    """Whether what comes out has the size that a norm gives it, whatever went in."""
    return any(port == Port.AUTO for _, port in node.results)


def _is_made_of(node: Node, denied: Collection[ir.Value]) -> bool:
    return node.kind == Kind.INFER and any(value in denied for value in node.values)
