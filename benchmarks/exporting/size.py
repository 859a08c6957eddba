"""How large a model is."""

from __future__ import annotations

from pathlib import Path

import onnx


def nodes(path: Path) -> int:
    """Nodes, those of branches, bodies and functions included."""
    model = onnx.load(path, load_external_data=False)
    return _count(model.graph.node) + sum(_count(function.node) for function in model.functions)


def kibibytes(path: Path) -> float:
    """Of the file and its external data, which lies beside it under its name with something appended."""
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*")) / 1024


def _count(of: object) -> int:
    bodies = [a.g for node in of for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]  # type: ignore[attr-defined]
    return len(of) + sum(_count(body.node) for body in bodies)  # type: ignore[arg-type]
