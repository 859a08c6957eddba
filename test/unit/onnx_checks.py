"""A JAX function as an ONNX model, run by onnxruntime and by ONNX's reference, against what XLA computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import onnx_ir as oir
import onnxruntime
from onnx.reference import ReferenceEvaluator

from zenith_mlir.module import trace
from zenith_mlir.onnx.model import Interface, build_model
from zenith_mlir.onnx.options import Options

__all__ = ["agrees", "convert", "op_types", "run_model", "same"]


def convert(fn: Callable[..., Any], *args: Any, opset: int = 23, passes: str = "prepare") -> oir.Model:
    """The model of `fn`; its inputs are the leaves of `args`."""
    return build_model(trace(fn, *args).run(passes), Interface(), Options(opset=opset))[0]


def run_model(model: oir.Model, arrays: list[np.ndarray], reference: bool = False) -> list[np.ndarray]:
    """What onnxruntime computes, or ONNX's reference."""
    proto = oir.to_proto(model)
    names = [value.name for value in model.graph.inputs]
    if reference:
        return list(ReferenceEvaluator(proto).run(None, dict(zip(names, arrays, strict=True))))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    # Values of bfloat16 and the like are passed as what onnxruntime calls them.
    feeds = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(a.view(np.uint16), oir.DataType.BFLOAT16)
        if a.dtype.name == "bfloat16"
        else onnxruntime.OrtValue.ortvalue_from_numpy(a)
        for name, a in zip(names, arrays, strict=True)
    }
    return [out.numpy() for out in session.run_with_ort_values(None, feeds)]


def _shown(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same with results that onnxruntime can hand out: it has no numpy array for bfloat16 and smaller types."""
    return lambda *args: jax.tree.map(lambda y: y.astype("float32") if y.dtype.kind == "V" else y, fn(*args))


def op_types(model: oir.Model) -> list[str]:
    """The operators of all nodes, those in branches and loops included, in order."""
    return [node.op_type for node in model.graph.all_nodes()]


def same(got: np.ndarray, want: np.ndarray, tolerance: float = 0.0) -> None:
    """Equal in shape, type, NaN and infinities; finite numbers differ by at most `tolerance` of the largest one."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    if not tolerance:
        np.testing.assert_array_equal(got, want)
        return
    got, want = got.astype(np.float64), want.astype(np.float64)
    scale = max(1e-30, float(np.max(np.abs(want), where=np.isfinite(want), initial=0.0)))
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)


def agrees(
    fn: Callable[..., Any],
    *args: Any,
    opset: int = 23,
    tolerance: float = 0.0,
    reference: bool = False,
    passes: str = "prepare",
) -> list[str]:
    """The operators that `fn` became, after checking that its results are those of XLA."""
    fn = _shown(fn)
    wants = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.jit(fn)(*args))]
    model = convert(fn, *args, opset=opset, passes=passes)
    gots = run_model(model, [np.asarray(leaf) for leaf in jax.tree.leaves(args)], reference)
    for got, want in zip(gots, wants, strict=True):
        same(np.asarray(got), want, tolerance)
    return op_types(model)
