"""Weights and activations of 8 bits, by onnxruntime's own tools, and what that costs."""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import onnx_ir as oir

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.check import compare_results, worst_of
from zenith_mlir.onnx.differences import Difference
from zenith_mlir.onnx.run import Session
from zenith_mlir.onnx.source.reference import as_taken
from zenith_mlir.onnx.writing import beside, data_file, write
from zenith_mlir.optional import need

if TYPE_CHECKING:
    from zenith_mlir.onnx.export import OnnxExport

__all__ = ["QuantizeReport", "quantize_onnx"]

_QUANTIZED = ("MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "QLinearMatMul", "QLinearConv", "QuantizeLinear")


@dataclass(frozen=True)
class QuantizeReport:
    """A quantized model: bytes of the files before and after, operators that came with it, and the differences of its
    outputs from those of the model before, the worst over the samples.
    """

    path: Path
    bytes_before: int
    bytes_after: int
    operators: Counter[str]
    outputs: tuple[Difference, ...] = ()

    def __str__(self) -> str:
        ratio = self.bytes_before / max(self.bytes_after, 1)
        lines = [
            f"{self.path}: {_size(self.bytes_before)} to {_size(self.bytes_after)} ({ratio:.1f}x smaller)",
            "operators: " + (", ".join(f"{n} {name}" for name, n in self.operators.items()) or "none was quantized"),
        ]
        for each in self.outputs:
            lines.append(f"{each.name}: differs by {each.maximum:.3g}, {each.relative:.2%} of the scale")
        return "\n".join(lines)


def quantize_onnx(
    model: OnnxExport | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    mode: Literal["dynamic", "static"] = "dynamic",
    samples: Iterable[Any] = (),
    per_channel: bool = True,
    operators: Sequence[str] | None = None,
) -> QuantizeReport:
    """Write `model` with products in 8-bit integers.

    Args:
      model: what `export_onnx` returned, or the path of a float32 model.
      path: where to write the quantized model.
      mode: "dynamic" computes the scales of activations in every run; "static" takes those of `samples`.
      samples: tuples of arguments, as the model was exported for. Static quantization needs them; the report compares
        the two models on them.
      per_channel: a scale for each output channel of a weight.
      operators: quantize these only; by default all that onnxruntime can.

    Raises:
        ZenithError: for a mode that there is none, static quantization without samples, and what onnxruntime refuses.
    """
    tools = need("onnxruntime.quantization", "onnx")
    if mode not in ("dynamic", "static"):
        raise ZenithError(f"mode={mode!r}: it is 'dynamic' or 'static'")
    source = Path(model if isinstance(model, str | os.PathLike) else _path(model))
    session = Session(source)
    given = [sample if isinstance(sample, tuple) else (sample,) for sample in samples]
    feeds = [[as_taken(leaf) for leaf in jax.tree.leaves(sample)] for sample in given]
    if mode == "static" and not feeds:
        raise ZenithError("static quantization measures activations; give samples=[(x,), ...] like those of use")
    for feed in feeds:
        if len(feed) != len(session.inputs):
            names = ", ".join(session.inputs)
            raise ZenithError(f"a sample has {len(feed)} arrays, and the model {len(session.inputs)} inputs, {names}")
    common = {"per_channel": per_channel, "op_types_to_quantize": operators, "use_external_data_format": False}
    with tempfile.TemporaryDirectory() as folder, beside(Path(path)) as place:
        inlined = _in_one_file(source, Path(folder))
        try:
            # They recommend a step that writes shapes into the file; they are there.
            logging.disable(logging.WARNING)
            if mode == "dynamic":
                tools.quantize_dynamic(str(inlined), str(place), weight_type=tools.QuantType.QInt8, **common)
            else:
                named = [dict(zip(session.inputs, feed, strict=True)) for feed in feeds]
                tools.quantize_static(str(inlined), str(place), _reader(tools, named), **common)
        except Exception as error:  # of its own kinds, and assertions
            raise ZenithError(f"onnxruntime does not quantize the model: {type(error).__name__}: {error}") from error
        finally:
            logging.disable(logging.NOTSET)
        after = Session(place)
        rows = [compare_results({}, after.outputs, session(feed), after(feed)) for feed in feeds]
        nodes = Counter(node.op_type for node in oir.load(place).graph.all_nodes() if node.op_type in _QUANTIZED)
        sizes = _bytes(source), _bytes(place)
    return QuantizeReport(Path(path), *sizes, nodes, worst_of(rows) if rows else ())


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _path(export: Any) -> Path:
    from zenith_mlir.onnx.export import OnnxExport

    if not isinstance(export, OnnxExport):
        raise ZenithError(f"a model is an OnnxExport or a path, not a {type(export).__name__}")
    if export.path is None:
        raise ZenithError("the model was exported without a path; quantization reads a file")
    return export.path


def _in_one_file(source: Path, folder: Path) -> Path:
    """A copy that holds its weights itself, as the tools want it."""
    model = oir.external_data.load_to_model(oir.load(source))
    target = folder / "model.onnx"
    write(model, target, "initializer")
    return target


def _reader(tools: Any, feeds: Sequence[dict[str, Any]]) -> Any:
    class Reader(tools.CalibrationDataReader):
        """The samples, one after the other."""

        def __init__(self) -> None:
            self._rest = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._rest, None)

    return Reader()


def _bytes(path: Path) -> int:
    return sum(each.stat().st_size for each in (path, data_file(path)) if each.exists())
