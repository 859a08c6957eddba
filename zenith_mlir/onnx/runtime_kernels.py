"""For which element types onnxruntime's CPU has a kernel of an ONNX operator, by opset.

`cpu_kernels.json` is written by `python benchmarks/onnx_kernels.py` from what onnxruntime says of itself.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import onnx_ir as oir

__all__ = ["compute_type"]

_D = oir.DataType

# Where there is no kernel for a type, the first of these that has one computes exactly the same after rounding back:
# integers in a wider one, bfloat16 in float32, as XLA does.
_WIDER: dict[oir.DataType, tuple[oir.DataType, ...]] = {
    _D.BOOL: (_D.UINT8, _D.INT32, _D.INT64),
    _D.INT8: (_D.INT32, _D.INT64),
    _D.UINT8: (_D.INT32, _D.INT64),
    _D.INT16: (_D.INT32, _D.INT64),
    _D.UINT16: (_D.INT32, _D.UINT32, _D.INT64),
    _D.INT32: (_D.INT64, _D.DOUBLE),
    _D.UINT32: (_D.INT64, _D.UINT64),
    _D.BFLOAT16: (_D.FLOAT,),
    _D.DOUBLE: (_D.FLOAT,),
    _D.INT4: (_D.INT8, _D.INT32),
    _D.UINT4: (_D.UINT8, _D.INT32),
    _D.INT2: (_D.INT8, _D.INT32),
    _D.UINT2: (_D.UINT8, _D.INT32),
    _D.FLOAT8E4M3FN: (_D.FLOAT,),
    _D.FLOAT8E4M3FNUZ: (_D.FLOAT,),
    _D.FLOAT8E5M2: (_D.FLOAT,),
    _D.FLOAT8E5M2FNUZ: (_D.FLOAT,),
}


def compute_type(op_type: str, dtype: oir.DataType, opset: int) -> oir.DataType:
    """The type in which onnxruntime computes `op_type` on operands of `dtype`: `dtype` itself where it can, or where
    nothing better is known.

    float16 stays: onnxruntime converts it by itself.
    """
    names = _kernels(op_type, opset)
    if not names or dtype == _D.FLOAT16 or dtype.name in names:
        return dtype
    if op_type == "Where" and dtype == _D.UINT64:
        # Other numbers of the same bits: nothing is computed.
        return _D.INT64
    return next((wider for wider in _WIDER.get(dtype, ()) if wider.name in names), dtype)


@functools.cache
def _kernels(op_type: str, opset: int) -> frozenset[str]:
    rows = _table().get(op_type, [])
    return frozenset(name for since, until, names in rows if since <= opset <= until for name in names.split())


@functools.cache
def _table() -> dict[str, list[tuple[int, int, str]]]:
    table: dict[str, list[tuple[int, int, str]]] = json.loads((Path(__file__).parent / "cpu_kernels.json").read_text())
    return table
