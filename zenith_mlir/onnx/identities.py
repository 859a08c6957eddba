"""Taking out Identity nodes: all but those that a graph needs to have an output of its own."""

from __future__ import annotations

import onnx_ir as oir

__all__ = ["drop_identities"]


def drop_identities(model: oir.Model) -> None:
    """Readers read what an Identity reads. onnx_ir's pass also takes out those that hand a value of the graph around
    to an output, which is not valid, and those that are a second output of one value, of which it loses a name.
    """
    for node in list(model.graph.all_nodes()):
        if node.op_type == "Identity" and node.domain == "" and not _is_needed(node):
            _drop(node)


def _is_needed(node: oir.Node) -> bool:
    value, result = node.inputs[0], node.outputs[0]
    assert value is not None
    if not result.is_graph_output():
        return False
    producer = value.producer()
    return producer is None or producer.graph is not node.graph or value.is_graph_output()


def _drop(node: oir.Node) -> None:
    value, result = node.inputs[0], node.outputs[0]
    assert value is not None and node.graph is not None
    if result.is_graph_output():
        value.name = result.name
    oir.convenience.replace_all_uses_with(result, value, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
