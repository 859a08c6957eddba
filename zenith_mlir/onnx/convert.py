"""The walk over a module: every operation through its row of the table, values becoming views of ONNX values."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.errors import ZenithError
from zenith_mlir.ir import location
from zenith_mlir.ir.facts import element_type, shape
from zenith_mlir.ir.signature import numpy_dtype
from zenith_mlir.onnx.arrange import dense
from zenith_mlir.onnx.builder import Builder, Origin
from zenith_mlir.onnx.view import View

__all__ = ["COMPLEX_REASON", "Lowering", "NotConvertible", "Walk", "is_complex", "onnx_type"]

Lowering = Callable[["Walk", ir.Operation], Sequence[View]]
"""Emits nodes for an operation and returns a view for each of its results."""


class NotConvertible(ZenithError):
    """An operation that has no ONNX form; the message says why, without a location."""


@dataclass(frozen=True)
class Refusal:
    """An operation that was not converted, why, and the user's line that it comes from."""

    op: str
    reason: str
    line: str

    def __str__(self) -> str:
        return f"{self.line or '<unknown>'}: {self.op}: {self.reason}"


@dataclass
class Walk:
    """Values of the program seen so far, and where nodes go.

    Lowering functions read operands with `walk.view(op.operands[0])` and return views of the results. What they refuse
    is collected, so that a user hears of everything at once; `failure` is the first error that is none of theirs.
    """

    builder: Builder
    table: Mapping[str, Lowering]
    functions: Mapping[str, ir.Operation] = field(default_factory=dict)
    views: dict[ir.Value, View] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    refusals: list[Refusal] = field(default_factory=list)
    failure: Exception | None = None
    parts: dict[ir.Value, tuple[View, View]] = field(default_factory=dict)
    """Real and imaginary parts of complex values."""

    def view(self, value: ir.Value) -> View:
        return self.views[value]

    def dense(self, value: ir.Value) -> oir.Value:
        """The ONNX value with all elements of `value` in its own order."""
        return dense(self.builder, self.views[value])

    def array(self, value: ir.Value) -> np.ndarray[Any, Any] | None:
        """The elements of `value` where they are known."""
        view = self.views[value]
        stored = self.builder.array(view.value)
        if stored is None:
            return None
        order = view.order
        kept = stored.reshape([view.shape[d] for d in order]).transpose(np.argsort(order))
        line = [1 if axis is None else size for axis, size in zip(view.axes, view.shape, strict=True)]
        return np.broadcast_to(kept.reshape(line), view.shape)

    def block(self, block: ir.Block, arguments: Sequence[View]) -> list[View]:
        """Convert the operations of `block`; returns what its terminator returns."""
        self.views.update(zip(block.arguments, arguments, strict=True))
        *body, terminator = [op.operation for op in block.operations]
        for op in body:
            self.convert(op)
        return [self.views[value] for value in terminator.operands]

    def convert(self, op: ir.Operation) -> None:
        outer = self.builder.origin
        self.builder.origin = _origin(op, next(self.numbers))
        try:
            views = self._lowered(op)
            for result, view in zip(op.results, views, strict=True):
                if view.shape != shape(result):
                    raise AssertionError(f"a view of {view.shape} for {result.type}")
        except ZenithError as refusal:
            views = self._refused(op, str(refusal))
        except Exception as error:  # a user is told of the line as of any other
            self.failure = self.failure or error
            views = self._refused(op, f"the converter failed, which is a bug: {type(error).__name__}: {error}")
        self.views.update(zip(op.results, views, strict=True))
        self.builder.origin = outer

    def _refused(self, op: ir.Operation, reason: str) -> list[View]:
        """Note why, and go on with placeholders for the results."""
        self.refusals.append(Refusal(_called(op), reason, self.builder.origin.line))
        return [self._nothing(result) for result in op.results]

    def _lowered(self, op: ir.Operation) -> Sequence[View]:
        complex_ = any(is_complex(value) for value in (*op.operands, *op.results))
        lowering = self.table.get(f"complex {op.name}" if complex_ else op.name)
        if lowering is None and complex_:
            raise NotConvertible(COMPLEX_REASON)
        if lowering is None:
            raise NotConvertible(_WHY.get(op.name, "there is no ONNX form of it"))
        return lowering(self, op)

    def _nothing(self, result: ir.Value) -> View:
        """Stands for the result of a refused operation, so that the walk can go on."""
        dims = shape(result) if isinstance(result.type, ir.RankedTensorType) else ()
        try:
            dtype = onnx_type(result)
        except (ZenithError, ValueError):
            dtype = oir.DataType.FLOAT
        return View.of(self.builder.value(dtype, dims), dims)


def onnx_type(value: ir.Value) -> oir.DataType:
    """The ONNX element type of a tensor.

    Raises:
        NotConvertible: for one that ONNX lacks.
    """
    dtype = numpy_dtype(element_type(value))
    try:
        return oir.DataType.from_numpy(dtype)
    except TypeError:
        raise NotConvertible(f"ONNX has no element type {dtype}") from None


def is_complex(value: ir.Value) -> bool:
    return isinstance(value.type, ir.RankedTensorType) and isinstance(element_type(value), ir.ComplexType)


COMPLEX_REASON = (
    "ONNX has no operators for complex numbers: they are converted in Fourier transforms, arithmetic and what moves "
    "elements; take real and imaginary parts before this"
)


def _called(op: ir.Operation) -> str:
    """The name of an operation, and of what a custom_call calls."""
    if op.name != "stablehlo.custom_call":
        return str(op.name)
    return f"custom_call @{ir.StringAttr(op.attributes['call_target_name']).value}"


_COLLECTIVE = "ONNX models run on one device; trace the function without sharding and without shard_map"
_HOST = "a running ONNX model does not talk to the host; remove callbacks, infeed and outfeed"
_WHY = {
    **{
        f"stablehlo.{name}": _COLLECTIVE
        for name in (
            "all_gather", "all_reduce", "all_to_all", "collective_broadcast", "collective_permute", "partition_id",
            "reduce_scatter", "replica_id",
        )
    },
    **{f"stablehlo.{name}": _HOST for name in ("infeed", "outfeed", "send", "recv", "create_token", "after_all")},
}  # fmt: skip


def _origin(op: ir.Operation, number: int) -> Origin:
    name = next(iter(location.names(op.location)), "")
    frame = location.source_frame(op.location)
    return Origin(name, f"{frame.file}:{frame.line}" if frame is not location.UNKNOWN else "", number)
