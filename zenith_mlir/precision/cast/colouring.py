"""Which nodes are computed in 16 bits: a fixed point over the graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by, element_type, has_static_shape, shape
from zenith_mlir.precision.cast.classes import NARROWING, Kind, Port, name_of
from zenith_mlir.precision.cast.constants import holds, is_exact
from zenith_mlir.precision.cast.flow import Flow
from zenith_mlir.precision.cast.graph import Graph, Node, Use, is_wide
from zenith_mlir.precision.cast.pins import pinned
from zenith_mlir.precision.cast.policy import CastPolicy, Dtype
from zenith_mlir.precision.cast.refusals import Reason, refusals


class Colouring:
    """The decision for every node and value of a graph.

    `products` are cast, `refused` are not. `low` are the nodes whose tied operands and results have 16 bits.
    """

    def __init__(
        self, graph: Graph, policy: CastPolicy, dtype: Dtype, element: ir.Type, arguments: Collection[ir.Value]
    ):
        self.graph, self.policy, self.element = graph, policy, element
        self.dtype = dtype.name
        self.refused: Mapping[Node, Reason] = refusals(graph, policy, dtype.name)
        for node in self.refused:
            node.kind = Kind.DENY
        self.products = {node for node in graph.nodes if node.kind == Kind.ALLOW}
        self.pinned = pinned(graph, arguments)
        self.flow = Flow.of(graph, self.products, self.pinned, dtype.name)
        self.low: set[Node] = {node for node in graph.nodes if self._is_low_already(node)}
        self.low |= {node for node in graph.nodes if self._may(node) and self._is_between(node)}
        # Results of composites, each of which has a type of its own.
        self._auto: set[ir.Value] = set()
        while self._grow():
            pass

    def is_narrow(self, value: ir.Value) -> bool:
        """Whether `value` comes in the 16-bit type, as it is or by its node's colour."""
        if not is_wide(value):
            return bool(element_type(value) == self.element)
        node = self.graph.maker.get(value)
        if node is None:
            return False
        port = next(port for own, port in node.results if own == value)
        if port == Port.TIED:
            return node in self.low
        return value in self._auto

    def wants_narrow(self, node: Node, use: Use) -> bool | None:
        """Whether `node` wants an operand in 16 bits; None if it takes what comes."""
        match use.port:
            case Port.LOW:
                return node in self.products
            case Port.TIED:
                return node in self.low
            case Port.SOFT:
                return self._has_narrow(use.value) or self._is_soft(node, use.value)
            case Port.FOLLOW:
                if _is_narrowing(node.op, self.element):
                    return True
                if self.policy.logits and use.number == 0 and name_of(node.op).startswith("zenith.cross_entropy"):
                    return self._has_narrow(use.value) or self._is_soft(node, use.value)
                return None
        return False

    def _grow(self) -> bool:
        found = {n for n in self.graph.nodes if n not in self.low and self._may(n) and self._follows(n)}
        own = [(node, value, port) for node in self.graph.nodes for value, port in node.results]
        given = {value for node, value, port in own if value not in self._auto and self._is_given(node, value, port)}
        self.low |= found
        self._auto |= given
        return bool(found or given)

    def _is_given(self, node: Node, value: ir.Value, port: Port) -> bool:
        """Whether a composite gives `value`, which has a type of its own, in 16 bits."""
        if port == Port.LIKE_FIRST:
            logits = node.uses[0]
            return (self.is_narrow(logits.value) or bool(self.wants_narrow(node, logits))) and self._all_want(value)
        if port != Port.AUTO or value in self.flow.wide:
            return False
        is_activation = node.kind != Kind.DENY and self.policy.infer and self._is_before(value)
        return is_activation or self._all_want(value)

    def _is_low_already(self, node: Node) -> bool:
        values = [*node.values, *(use.value for use in node.uses)]
        return node.is_tied and bool(values) and all(element_type(v) == self.element for v in values)

    def _may(self, node: Node) -> bool:
        """Whether a tied node can be computed in 16 bits at all."""
        if not node.is_tied or node in self.pinned or node.kind not in (Kind.INFER, Kind.CLEAR):
            return False
        values = [*node.values, *(use.value for use in node.uses if use.port == Port.TIED)]
        if any(value in self.flow.wide for value in values):
            return False
        constants = (defined_by(use.value, "stablehlo.constant") for use in node.uses)
        return all(is_wide(v) or element_type(v) == self.element for v in values) and all(
            op is None or holds(op, self.dtype) for op in constants
        )

    def _is_between(self, node: Node) -> bool:
        """Between products, and not made of a denied operation; or allowed by the user."""
        if node.rule is not None and node.rule.kind == Kind.ALLOW:
            return True
        if node.kind == Kind.INFER and not (self.policy.infer or node.rule is not None):
            return False
        flow, values = self.flow, node.values
        return (
            any(value in flow.after for value in values)
            and not any(value in flow.denied for value in values)
            and any(self._is_before(value) for value in values)
        )

    def _is_before(self, value: ir.Value) -> bool:
        """On the way to a product. What passes on it through operations on denied values may be rounded first, unless
        an exponential reads it too.
        """
        flow = self.flow
        return value in flow.before or (value in flow.before_denied and value not in flow.to_exponential)

    def _follows(self, node: Node) -> bool:
        """Whether the neighbours of a clear node are narrow: all that it is given, or all that read it."""
        if node.kind != Kind.CLEAR:
            return False
        given = [use.value for use in node.uses if use.port == Port.TIED]
        changing = [value for value in given if defined_by(value, "stablehlo.constant") is None]
        if changing and all(self._has_narrow(value) for value in changing):
            return not self._compares_otherwise(node, given)
        return (
            bool(node.values)
            and all(self._all_want(v) for v in node.values if self._is_read(v))
            and (any(self._is_read(v) for v in node.values) and self._is_smaller_before(node))
        )

    def _compares_otherwise(self, node: Node, given: Collection[ir.Value]) -> bool:
        """Whether rounding a constant could change what a comparison says."""
        constants = (defined_by(value, "stablehlo.constant") for value in given)
        return not node.values and not all(op is None or is_exact(op, self.dtype) for op in constants)

    def _is_smaller_before(self, node: Node) -> bool:
        """Whether casting what a node is given is no more work than casting what it gives."""
        if node.op.name not in NARROWING:
            return True
        before, after = node.uses[0].value, node.values[0]
        static = has_static_shape(before) and has_static_shape(after)
        is_product = self._has_narrow(before) or self._is_soft(node, before)
        return is_product or (static and prod(shape(before)) <= prod(shape(after)))

    def _is_read(self, value: ir.Value) -> bool:
        return bool(self.graph.readers.get(value)) or any(use.value == value for use in self.graph.sinks)

    def _all_want(self, value: ir.Value) -> bool:
        """Whether somebody wants `value` in 16 bits, and nobody otherwise."""
        if any(use.value == value for use in self.graph.sinks):
            return False
        wants = [self.wants_narrow(*reader) for reader in self.graph.readers.get(value, ())]
        return True in wants and False not in wants

    def _has_narrow(self, value: ir.Value) -> bool:
        """Whether `value` is narrow, or was before somebody widened it."""
        convert = defined_by(value, "stablehlo.convert")
        return self.is_narrow(value) or (
            convert is not None and is_wide(value) and element_type(convert.operands[0]) == self.element
        )

    def _is_soft(self, node: Node, value: ir.Value) -> bool:
        flow = self.flow
        free = value in flow.after and value not in flow.denied and value not in flow.wide
        return free and self.policy.infer and node not in self.pinned


def _is_narrowing(op: ir.Operation, element: ir.Type) -> bool:
    return op.name == "stablehlo.convert" and bool(element_type(op.results[0]) == element)
