"""The backend tests of one node that the onnx package carries."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["Case", "Node", "all_cases", "cases_of"]


@dataclass(frozen=True)
class Node:
    """A node: its attributes by name with the defaults of its schema, and which results are asked for."""

    op: str
    name: str
    opset: int
    attributes: dict[str, Any]
    outputs: tuple[str, ...]

    def __getitem__(self, name: str) -> Any:
        return self.attributes.get(name)


@dataclass(frozen=True)
class Case:
    """A test: a node, an array for each of its operands (None where it is left out), and what comes out."""

    node: Node
    inputs: list[Any]
    expected: list[Any]


def all_cases() -> list[Case]:
    """Every test of one node, without those of functions expanded into nodes."""
    from onnx.backend.test.case.node import collect_testcases

    return list(_cases(collect_testcases()))


def cases_of(module: str) -> list[Case]:
    """The tests of one file of onnx.backend.test.case.node, without those of the others."""
    from onnx.backend.test.case import node

    before = len(node._NodeTestCases)
    importlib.import_module(f"onnx.backend.test.case.node.{module}")
    return list(_cases(node._NodeTestCases[before:]))


def _cases(tests: Any) -> Iterator[Case]:
    for test in tests:
        (proto, *others), ((inputs, expected), *_) = test.model.graph.node, test.data_sets
        if others or "_expanded" in test.name:
            continue
        opset = next(each.version for each in test.model.opset_import if each.domain == proto.domain)
        schema = onnx.defs.get_schema(proto.op_type, opset, proto.domain)
        defaults = {k: _read(a.default_value) for k, a in schema.attributes.items() if a.default_value.type}
        given = {attribute.name: _read(attribute) for attribute in proto.attribute}
        node = Node(proto.op_type, test.name, opset, {**defaults, **given}, tuple(proto.output))
        arrays = iter(inputs)
        operands = [_array(next(arrays)) if name else None for name in proto.input]
        yield Case(node, operands, [_array(each) for each in expected])


def _read(attribute: Any) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value if isinstance(value, list | tuple) or value is None else np.asarray(value)
