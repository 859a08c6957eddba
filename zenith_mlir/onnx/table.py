"""Every operation that has an ONNX form, by name."""

from __future__ import annotations

from zenith_mlir.onnx.convert import Lowering
from zenith_mlir.onnx.lower.bias import BIAS
from zenith_mlir.onnx.lower.bit_counts import BIT_COUNTS
from zenith_mlir.onnx.lower.bitcasts import BITCASTS
from zenith_mlir.onnx.lower.clip import CLIP
from zenith_mlir.onnx.lower.complex import COMPLEX
from zenith_mlir.onnx.lower.composite import COMPOSITE
from zenith_mlir.onnx.lower.control import CONTROL
from zenith_mlir.onnx.lower.convolution import CONVOLUTION
from zenith_mlir.onnx.lower.custom_call import CUSTOM_CALL
from zenith_mlir.onnx.lower.dot import DOT
from zenith_mlir.onnx.lower.elementwise import ELEMENTWISE
from zenith_mlir.onnx.lower.gather import GATHER
from zenith_mlir.onnx.lower.mean import MEAN
from zenith_mlir.onnx.lower.pool import POOL
from zenith_mlir.onnx.lower.random_bits import RANDOM_BITS
from zenith_mlir.onnx.lower.reduce import REDUCE
from zenith_mlir.onnx.lower.scatter import SCATTER
from zenith_mlir.onnx.lower.select_scatter import SELECT_SCATTER
from zenith_mlir.onnx.lower.shape import SHAPE
from zenith_mlir.onnx.lower.sort import SORT
from zenith_mlir.onnx.lower.types import TYPES
from zenith_mlir.onnx.lower.update import UPDATE

__all__ = ["LOWERINGS"]

LOWERINGS: dict[str, Lowering] = {
    **BITCASTS,
    **BIT_COUNTS,
    **COMPLEX,
    **COMPOSITE,
    **CONTROL,
    **CUSTOM_CALL,
    **CONVOLUTION,
    **DOT,
    **ELEMENTWISE,
    # These read an elementwise operation together with what is before it.
    **BIAS,
    **CLIP,
    **MEAN,
    **GATHER,
    **POOL,
    **RANDOM_BITS,
    **REDUCE,
    **SCATTER,
    **SELECT_SCATTER,
    **SHAPE,
    **SORT,
    **TYPES,
    **UPDATE,
}
