"""One test: JAX, our model on onnxruntime, and our model on ONNX's reference, against what the test expects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

import zenith_mlir as zenith
from onnx_nodes.cases import Case
from onnx_nodes.table import MEANINGS
from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.run import Session

__all__ = ["Verdict", "convert", "difference", "judge", "meaning_of"]

# Relative and absolute, of a number; the tests ask for 1e-3 and 1e-7 of all types.
TOLERANCES = {"float64": (1e-4, 1e-7), "float32": (1e-3, 2e-6), "float16": (4e-3, 2e-3)}
ROUGH = (2e-2, 2e-2)  # bfloat16 and smaller


@dataclass
class Verdict:
    """What came of a test: "" where it agrees, else how it does not. `jax` is None where JAX has no such thing."""

    jax: str | None = ""
    models: dict[tuple[int, str], str] = field(default_factory=dict)


def meaning_of(case: Case) -> tuple[Callable[..., Any], list[Any]]:
    """The test's node as a function of arrays that onnxruntime can hand out the results of, and the arrays.

    Raises:
        NotImplementedError: for an operator without a meaning here, or types that JAX has not.
    """
    if case.node.op not in MEANINGS:
        raise NotImplementedError(f"no meaning of {case.node.op}")
    fn, arrays = MEANINGS[case.node.op].of(case)
    for array in [*arrays, *case.expected]:
        if not isinstance(array, np.ndarray) or array.dtype.kind in "OUS" or "int4" in str(array.dtype):
            raise NotImplementedError(f"{getattr(array, 'dtype', type(array).__name__)}")
        if str(array.dtype) not in _TYPES:
            raise NotImplementedError(f"type {array.dtype}")
    return lambda *xs: [_shown(y) for y in jax.tree.leaves(fn(*xs))], arrays


def judge(case: Case, opsets: tuple[int, ...], fused: str = "measured") -> Verdict:
    """Run a test everywhere; its models are written at each opset, and checked."""
    verdict = Verdict()
    try:
        fn, arrays = meaning_of(case)
        verdict.jax = difference(jax.jit(fn)(*arrays), case.expected)
    except NotImplementedError:
        return Verdict(None)
    except Exception as error:  # JAX's own refusals: types, shapes that are not known
        verdict.jax = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if verdict.jax:
        return verdict
    for opset in opsets:
        try:
            model = convert(fn, arrays, opset, fused)
        except ZenithError as error:
            verdict.models[opset, "onnxruntime"] = verdict.models[opset, "reference"] = f"refused: {error}"
            continue
        except Exception as error:  # onnx's checker and its shape inference
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            verdict.models[opset, "onnxruntime"] = verdict.models[opset, "reference"] = said
            continue
        for name, run in (("onnxruntime", _on_runtime), ("reference", _on_reference)):
            verdict.models[opset, name] = _tried(lambda run=run, model=model: run(model, arrays), case.expected)
    return verdict


def convert(fn: Callable[..., Any], arrays: list[Any], opset: int, fused: str = "measured") -> onnx.ModelProto:
    """Our model, once onnx's checker has nothing to say against it."""
    export = zenith.export_onnx(fn, tuple(arrays), opset=opset, fused=fused, validate=False, progress=False)  # type: ignore[arg-type]
    model = onnx.load_from_string(export.model_bytes)
    onnx.checker.check_model(model, full_check=True)
    return model


def difference(got: Any, want: Any) -> str:
    """How results are not those expected, "" where they are."""
    if len(got) != len(want):
        return f"{len(got)} results, not {len(want)}"
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        a = np.asarray(a)
        if a.shape != b.shape:
            return f"result {i} has shape {a.shape}, not {b.shape}"
        if a.dtype != _shown(b).dtype:
            return f"result {i} is {a.dtype}, not {b.dtype}"
        relative, absolute = TOLERANCES.get(str(b.dtype), ROUGH) if b.dtype.kind in "fcV" else (0, 0)
        a, b = (x.astype(np.float64) if x.dtype.kind in "fV" else x for x in (a, b))
        if not np.allclose(a, b, rtol=relative, atol=absolute, equal_nan=True):
            wrong = ~np.isclose(a, b, rtol=relative, atol=absolute, equal_nan=True)
            return f"result {i}: {a[wrong].ravel()[:3]} for {b[wrong].ravel()[:3]}, {wrong.sum()} of {wrong.size}"
    return ""


_TYPES = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "bfloat16"),
}


def _shown(y: Any) -> Any:
    return y.astype(np.float32) if str(y.dtype) == "bfloat16" else y


def _tried(run: Callable[[], Any], want: Any) -> str:
    try:
        return difference(run(), want)
    except Exception as error:  # those of onnxruntime and onnx have no common base
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _on_runtime(model: onnx.ModelProto, arrays: list[Any]) -> list[Any]:
    return Session(model.SerializeToString())(arrays)


def _on_reference(model: onnx.ModelProto, arrays: list[Any]) -> list[Any]:
    names = [each.name for each in model.graph.input]
    return list(ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True))))
