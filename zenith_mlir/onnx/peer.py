"""The same call through jax2onnx, for who has to compare or needs what only it converts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as oir

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.options import Options
from zenith_mlir.optional import need

__all__ = ["convert_with_peer"]


def convert_with_peer(fn: Any, args: Sequence[Any], params: Any, options: Options) -> oir.Model:
    """The model that jax2onnx makes of a function of arrays; `params` are closed over.

    Raises:
        ZenithError: if it is not installed or does not convert the function, with its reason.
    """
    peer = need("jax2onnx", "jax2onnx")
    import jax

    called = fn if params is None else lambda *inputs: fn(params, *inputs)
    inputs = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tuple(args))]
    try:
        made: Any = peer.to_onnx(called, inputs=inputs, opset=options.opset, return_mode="ir")
    except Exception as error:  # whatever its plugins raise
        raise ZenithError(f"jax2onnx does not convert this function: {type(error).__name__}: {error}") from error
    return made if isinstance(made, oir.Model) else oir.from_proto(made)
