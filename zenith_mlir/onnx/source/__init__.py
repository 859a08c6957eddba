"""From what a user has, a function or a model of some library, to a module whose weights have names.

`trace_model` asks `models.recognise` how to call what it got and where the weights are, gives the sizes that `dynamic`
names their symbols (`dimensions.py`), traces, makes arguments of the weights that functions close over
(`zenith_mlir/ir/lifted.py`), and names everything (`names.py`). One file a library, none of which is imported before
the user has.

Every name is imported when first used: `import zenith_mlir.onnx.source` does not load jax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zenith_mlir.lazily import attributes

if TYPE_CHECKING:
    from zenith_mlir.onnx.source.program import Named as Named
    from zenith_mlir.onnx.source.program import Parameter as Parameter
    from zenith_mlir.onnx.source.program import Source as Source
    from zenith_mlir.onnx.source.trace import trace_model as trace_model

_HOMES = {"Named": "program", "Parameter": "program", "Source": "program", "trace_model": "trace"}

__all__ = list(_HOMES)

__getattr__ = attributes(__name__, _HOMES)
