"""Builder: ONNX nodes, constants and sizes, one after the other, into a graph or the body of a loop or branch."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as oir

from zenith_mlir.onnx.options import Fused
from zenith_mlir.onnx.runtime_kernels import compute_type
from zenith_mlir.onnx.sizes import Sizes, StaticSizes

__all__ = ["Builder", "Origin"]

# A constant of more bytes than this is taken for a weight: it is written out in another order only where nobody else
# reads it.
_SMALL = 1 << 16


@dataclass(frozen=True)
class Origin:
    """Where in the user's program nodes come from."""

    name: str = ""
    line: str = ""
    value: int = -1


@dataclass
class Builder:
    """Emits nodes for one opset.

    `sizes` says what the sizes of the program mean: numbers, or expressions of symbolic dimensions. `notes` collects
    what a user should know of the conversion, `domains` the versions of operator domains other than ONNX's own,
    `fused_ops` how often a zenith op became an operator. `fused` and `microsoft` are those of the options: "always"
    keeps the type of the program, whether onnxruntime's CPU has a kernel of the operator for it or not.
    """

    opset: int
    sizes: Sizes = field(default_factory=StaticSizes)
    fused: Fused = "measured"
    microsoft: bool = False
    notes: dict[str, None] = field(default_factory=dict)
    origin: Origin = Origin()
    domains: dict[str, int] = field(default_factory=dict)
    fused_ops: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.graph = oir.Graph([], [], nodes=[], name="main")
        self.main = self.graph
        self._constants: dict[tuple[Any, ...], oir.Value] = {}
        self._arranged: list[dict[tuple[Any, ...], oir.Value]] = [{}]
        self._shared: set[oir.Value] = set()
        # The names of weights that values were rearranged from.
        self._roots: dict[oir.Value, str] = {}
        self._count = 0

    # Values

    def new_name(self, stem: str = "v") -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def value(self, dtype: oir.DataType, shape: Sequence[int], name: str | None = None) -> oir.Value:
        """A value that nothing computes yet, of a shape of the program's sizes."""
        return oir.Value(
            name=name or self.new_name(), type=oir.TensorType(dtype), shape=oir.Shape(self.sizes.named(shape))
        )

    def constant(self, array: Any, dtype: oir.DataType | None = None) -> oir.Value:
        """An initializer; equal small ones are one."""
        array = np.asarray(array)
        if dtype is not None and oir.DataType.from_numpy(array.dtype) != dtype:
            array = array.astype(dtype.numpy())
        key = (str(array.dtype), array.shape, array.tobytes()) if array.size <= 1024 else ()
        if not key or key not in self._constants:
            value = self.initializer(oir.Tensor(np.ascontiguousarray(array).reshape(array.shape)), self.new_name("c"))
            if not key:
                return value
            self._constants[key] = value
        return self._constants[key]

    def known(self, key: tuple[Any, ...], make: Callable[[], Any]) -> oir.Value:
        """The constant that `make` returns; it is made once for a key, whatever its size."""
        return self._once(("known", *key), lambda: self.constant(make()), everywhere=True)

    def initializer(self, tensor: oir.TensorProtocol, name: str, shared: bool = False) -> oir.Value:
        """A value that the file holds. A `shared` one is read in several places and never written a second time."""
        value = oir.Value(
            name=name, type=oir.TensorType(tensor.dtype), shape=oir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        self.main.register_initializer(value)
        if shared:
            self._shared.add(value)
        return value

    def weight(self, tensor: oir.TensorProtocol, name: str, shared: bool) -> oir.Value:
        """An initializer of the user's, who shall find its name in the file."""
        value = self.initializer(tensor, name, shared)
        self._roots[value] = name
        return value

    def restore_names(self) -> None:
        """Give what is left of weights in another order their names back, where the weights themselves are gone."""
        used = {value for node in self.main.all_nodes() for value in node.inputs if value is not None}
        for value, name in self._roots.items():
            if value in used and value.name != name and name not in self.main.initializers:
                self.main.initializers.pop(str(value.name))
                value.name = name
                self.main.register_initializer(value)

    def scalar(self, number: Any, dtype: oir.DataType) -> oir.Value:
        return self.constant(np.asarray(number).astype(dtype.numpy()))

    def ints(self, numbers: Sequence[int]) -> oir.Value:
        """A vector of int64 that has nothing to do with sizes: axes, steps."""
        return self.constant(np.asarray(list(numbers), np.int64))

    def dims(self, sizes: Sequence[int]) -> oir.Value:
        """A vector of int64 of sizes of the program, computed where they are symbolic."""
        return self.sizes.vector(self, sizes)

    def array(self, value: oir.Value) -> np.ndarray[Any, Any] | None:
        """The elements of a constant."""
        return None if value.const_value is None else value.const_value.numpy()

    # Nodes

    def op(
        self,
        op_type: str,
        *inputs: oir.Value | None,
        shape: Sequence[int],
        dtype: oir.DataType | None = None,
        domain: str = "",
        data: int = 0,
        **attributes: Any,
    ) -> oir.Value:
        """The result of one node: of `shape`, in the dtype of input `data` unless `dtype` says another.

        Where onnxruntime has no kernel for the type of input `data`, all inputs of that type are cast to one that it
        has, and a result of that type is cast back. The condition of a Where stays a boolean.
        """
        source = inputs[data]
        assert source is not None
        given = source.dtype
        assert given is not None
        compute = given if domain else compute_type(op_type, given, self.opset)
        if compute != given and op_type != "Cast":
            self._note_loss(op_type, given, compute)
            operands = range(1 if op_type == "Where" else 0, len(inputs))
            inputs = tuple(
                self.cast(value, compute) if value is not None and value.dtype == given and i in operands else value
                for i, value in enumerate(inputs)
            )
        else:
            compute = given
        result = dtype or given
        out = self.nodes(op_type, inputs, [(compute if result == given else result, shape)], domain, **attributes)[0]
        return self.cast(out, result)

    def nodes(
        self,
        op_type: str,
        inputs: Sequence[oir.Value | None],
        results: Sequence[tuple[oir.DataType, Sequence[int]]],
        domain: str = "",
        **attributes: Any,
    ) -> list[oir.Value]:
        """The results of one node, as they are given: (dtype, shape) each."""
        outputs = [self.value(dtype, shape, self.new_name(op_type.lower())) for dtype, shape in results]
        given = {name: value for name, value in attributes.items() if value is not None}
        node = oir.Node(
            domain,
            op_type,
            inputs,
            oir.convenience.convert_attributes(given),
            outputs=outputs,
            name="/".join(filter(None, [self.origin.name, self.new_name(op_type)])),
        )
        if self.origin.line:
            node.metadata_props["source"] = self.origin.line
        if self.origin.value >= 0:
            node.metadata_props["zenith.value"] = str(self.origin.value)
        self.graph.append(node)
        return outputs

    def cast(self, value: oir.Value, dtype: oir.DataType) -> oir.Value:
        if value.dtype == dtype:
            return value
        array = self.array(value)
        if array is not None and array.nbytes <= _SMALL:
            return self.constant(array.astype(dtype.numpy()))
        return self._once(
            ("cast", value, dtype), lambda: self.nodes("Cast", [value], [(dtype, self.shape(value))], to=dtype)[0]
        )

    def shape(self, value: oir.Value) -> tuple[int, ...]:
        """In sizes of the program."""
        assert value.shape is not None
        return self.sizes.numbers(value.shape)

    def _note_loss(self, op_type: str, given: oir.DataType, compute: oir.DataType) -> None:
        if given == oir.DataType.DOUBLE:
            self.notes[f"onnxruntime has no {op_type} for float64: it is computed in {compute.name.lower()}"] = None

    # Another order of the same elements

    def transpose(self, value: oir.Value, permutation: Sequence[int]) -> oir.Value:
        permutation = list(permutation)
        if permutation == sorted(permutation):
            return value
        shape = self.shape(value)
        target = [shape[axis] for axis in permutation]
        if self._foldable(value):
            return self._fold(value, ("T", *permutation), target, lambda array: array.transpose(permutation))
        return self._once(
            ("T", value, *permutation),
            lambda: self.nodes("Transpose", [value], [(_dtype(value), target)], perm=permutation)[0],
        )

    def reverse(self, value: oir.Value, axes: Sequence[int]) -> oir.Value:
        """The elements along `axes` in the opposite order."""
        axes, shape = [axis for axis in axes if self.shape(value)[axis] != 1], self.shape(value)
        if not axes:
            return value
        if self._foldable(value):
            return self._fold(value, ("F", *axes), shape, lambda array: np.flip(array, tuple(axes)))
        ends = [self.ints([bound] * len(axes)) for bound in (-1, np.iinfo(np.int64).min)]
        operands = [*ends, self.ints(axes), self.ints([-1] * len(axes))]
        return self._once(("F", value, *axes), lambda: self.op("Slice", value, *operands, shape=shape))

    def reshape(self, value: oir.Value, shape: Sequence[int]) -> oir.Value:
        new = tuple(shape)
        before = self._before_reshapes(value, new)
        if before is not None:
            return before
        if self._foldable(value):
            return self._fold(value, ("R", *new), new, lambda array: array.reshape(new))
        return self._once(("R", value, *new), lambda: self._reshaped(value, new))

    def _reshaped(self, value: oir.Value, new: tuple[int, ...]) -> oir.Value:
        old, result = self.shape(value), [(_dtype(value), new)]
        inserted = _inserted_ones(old, new)
        if inserted is not None:
            return self.nodes("Unsqueeze", [value, self.ints(inserted)], result)[0]
        target = self.sizes.reshape_target(self, old, new)
        return self.nodes("Reshape", [value, target], result, allowzero=None if all(new) else 1)[0]

    def _before_reshapes(self, value: oir.Value, shape: tuple[int, ...]) -> oir.Value | None:
        """`value`, or what was reshaped into it, if it has this shape."""
        found: oir.Value | None = value
        while found is not None and self.shape(found) != shape:
            node = found.producer()
            found = node.inputs[0] if node is not None and node.op_type in ("Reshape", "Unsqueeze") else None
        return found

    def expand(self, value: oir.Value, shape: Sequence[int]) -> oir.Value:
        new = tuple(shape)
        if self.shape(value) == new:
            return value
        return self._once(("E", value, *new), lambda: self.op("Expand", value, self.dims(new), shape=new))

    def _foldable(self, value: oir.Value) -> bool:
        tensor = value.const_value
        return tensor is not None and (tensor.nbytes <= _SMALL or value not in self._shared)

    def _fold(self, value: oir.Value, how: tuple[Any, ...], shape: Sequence[int], rearrange: Any) -> oir.Value:
        tensor = value.const_value
        assert tensor is not None

        def emit() -> oir.Value:
            root = self._roots.get(value)
            if tensor.nbytes <= _SMALL and root is None:
                return self.constant(rearrange(tensor.numpy()))
            name = self.new_name(root or "c")
            lazy = oir.LazyTensor(
                lambda: oir.Tensor(np.ascontiguousarray(rearrange(tensor.numpy()))),
                tensor.dtype,
                oir.Shape(shape),
                name=name,
            )
            result = self.initializer(lazy, name)
            if root is not None:
                self._roots[result] = root
            return result

        return self._once((value, *how), emit, everywhere=True)

    def _once(self, key: tuple[Any, ...], emit: Any, everywhere: bool = False) -> oir.Value:
        """What `emit` gave for the same key before, here or in a graph around this one."""
        for scope in self._arranged:
            if key in scope:
                return scope[key]
        value: oir.Value = emit()
        self._arranged[0 if everywhere else -1][key] = value
        return value

    # Graphs inside of nodes

    @contextlib.contextmanager
    def subgraph(self, name: str, inputs: Sequence[oir.Value]) -> Iterator[oir.Graph]:
        """Nodes go into a new graph, which may read every value around it."""
        outer, inner = self.graph, oir.Graph(list(inputs), [], nodes=[], name=self.new_name(name))
        self.graph = inner
        self._arranged.append({})
        try:
            yield inner
        finally:
            self.graph = outer
            self._arranged.pop()

    @contextlib.contextmanager
    def in_main(self) -> Iterator[None]:
        """Nodes go into the main graph, before whatever holds the current one."""
        inner, self.graph = self.graph, self.main
        try:
            yield
        finally:
            self.graph = inner

    def set_outputs(self, graph: oir.Graph, values: Sequence[oir.Value]) -> None:
        """Make `values` the outputs of the current subgraph; each has to be computed by a node in it, and only once."""
        for value in values:
            graph.outputs.append(self.nodes("Identity", [value], [(_dtype(value), self.shape(value))])[0])


def _dtype(value: oir.Value) -> oir.DataType:
    assert value.dtype is not None
    return value.dtype


def _inserted_ones(old: Sequence[int], new: Sequence[int]) -> list[int] | None:
    """The axes of `new` at which a 1 was put into `old`; None if there is more to it."""
    if len(new) <= len(old):
        return None
    rest, inserted = list(old), []
    for axis, size in enumerate(new):
        if rest and rest[0] == size:
            rest.pop(0)
        elif size == 1:
            inserted.append(axis)
        else:
            return None
    return None if rest else inserted
