"""ONNX's operators by name, and what they mean in JAX."""

from __future__ import annotations

from onnx_nodes.control import CONTROL
from onnx_nodes.elementwise import ELEMENTWISE
from onnx_nodes.meaning import Meaning
from onnx_nodes.moves import MOVES
from onnx_nodes.networks import NETWORKS
from onnx_nodes.reductions import REDUCTIONS

__all__ = ["MEANINGS"]

MEANINGS: dict[str, Meaning] = {**CONTROL, **ELEMENTWISE, **MOVES, **NETWORKS, **REDUCTIONS}
