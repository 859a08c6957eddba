"""Values that stay float32, and that nothing is cast for: parameters and optimizer state that a program updates, and
sums that grow from one iteration of a loop to the next.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import has_static_shape, shape, users
from zenith_mlir.ir.loops import Loop
from zenith_mlir.precision.cast.classes import Kind
from zenith_mlir.precision.cast.graph import Graph, Node

_MOVES = ("stablehlo.convert", "stablehlo.reshape", "stablehlo.transpose", "stablehlo.broadcast_in_dim")
_SCALES = ("stablehlo.multiply", "stablehlo.divide", "stablehlo.select")
_SUMS = ("stablehlo.add", "stablehlo.subtract")


def pinned(graph: Graph, arguments: Iterable[ir.Value]) -> dict[Node, str]:
    """The nodes that stay float32, and why. `arguments` are those of the program."""
    given = set(arguments)
    found = {
        node: "it starts as an argument of the program"
        for node in graph.nodes
        if _is_carry(node) and _is_given(graph, node.uses[0].value, given)
    }
    found |= {
        node: "it is a sum that grows in the loop"
        for node in graph.nodes
        if _is_carry(node) and node not in found and _grows(node)
    }
    updates = _from_arguments(graph, given, found) & _to_results(graph, found)
    return found | {node: "it is an update of an argument" for node in updates if node not in found}


def _is_carry(node: Node) -> bool:
    return node.is_join and node.op.name == "stablehlo.while"


def _is_given(graph: Graph, value: ir.Value, given: set[ir.Value]) -> bool:
    """Whether `value` is one of `given`, moved about or carried through other loops."""
    seen: set[ir.Value] = set()
    while value not in given:
        node = graph.maker.get(value)
        if node is None or value in seen or not node.uses or node.kind != Kind.CLEAR or not _same_size(node):
            return False
        seen.add(value)
        value = node.uses[0].value
    return True


def _same_size(node: Node) -> bool:
    """Whether a node gives as many elements as it takes."""
    values = [*(use.value for use in node.uses[:1]), *node.values]
    return all(has_static_shape(value) for value in values) and len({prod(shape(value)) for value in values}) == 1


def _grows(node: Node) -> bool:
    """Whether all that the body of a loop makes of what it carries is to scale it and to add to it."""
    loop = Loop(node.op)
    (i,) = [i for i, argument in enumerate(loop.body.arguments) if argument == node.values[0]]
    value, has_sum = loop.body.arguments[i], False
    while value != loop.returned[i]:
        readers = users(value)
        if len(readers) != 1 or readers[0].name not in (*_MOVES, *_SCALES, *_SUMS):
            return False
        has_sum |= readers[0].name in _SUMS
        value = readers[0].results[0]
    return has_sum


def _from_arguments(graph: Graph, given: set[ir.Value], stops: dict[Node, str]) -> set[Node]:
    """Elementwise arithmetic on arguments of the program, element by element."""
    found: set[Node] = set()
    frontier = [node for value in given for node, _ in graph.readers.get(value, ())]
    while frontier:
        node = frontier.pop()
        if node not in found and node not in stops and _is_elementwise(node):
            found.add(node)
            frontier += graph.behind(node)
    return found


def _to_results(graph: Graph, stops: dict[Node, str]) -> set[Node]:
    """What becomes a result of the program by elementwise arithmetic, element by element."""
    found: set[Node] = set()
    frontier = [graph.maker[use.value] for use in graph.sinks if use.value in graph.maker]
    while frontier:
        node = frontier.pop()
        if node not in found and node not in stops and _is_elementwise(node):
            found.add(node)
            frontier += [graph.maker[use.value] for use in node.uses if use.value in graph.maker]
    return found


def _is_elementwise(node: Node) -> bool:
    if node.op.name == "stablehlo.composite" or not node.values:
        return False
    return node.kind == Kind.INFER or (node.kind == Kind.CLEAR and _same_size(node))
