"""A random StableHLO program gives the same numbers after a pipeline, NaN and infinities included."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zenith_mlir.certify import certify_pair
from zenith_mlir.module import Module

pytestmark = pytest.mark.once

Draw = Callable[..., Any]
Shape = tuple[int, ...]

ARGUMENTS: list[tuple[Shape, str]] = [
    ((4, 6), "f32"),
    ((6,), "f32"),
    ((2, 4, 6), "f32"),
    ((2, 6, 4), "f32"),
    ((4, 6), "i1"),
]
# Numbers that rewrites have special cases for.
NUMBERS = ["0.0", "1.0", "-1.0", "0.125", "-0.0", "0xFF800000", "-3.40282347E+38", "0x7FC00000", "-1.0e9"]


@dataclass(frozen=True)
class Value:
    name: str
    shape: Shape
    element: str

    @property
    def type(self) -> str:
        return tensor(self.shape, self.element)


def tensor(shape: Shape, element: str) -> str:
    return f"tensor<{''.join(f'{n}x' for n in shape)}{element}>"


@dataclass
class Program:
    """The text of `main` so far, and the values that further operations may use."""

    draw: Draw
    values: list[Value]
    lines: list[str] = field(default_factory=list)
    names: Iterator[int] = field(default_factory=itertools.count)

    def emit(self, operation: str, shape: Shape, element: str, types: str | None = None) -> Value:
        """Append `%n = operation : types` (by default the type of the result) and offer the result."""
        value = Value(f"%v{next(self.names)}", shape, element)
        self.lines.append(f"{value.name} = {operation} : {types or value.type}")
        self.values.append(value)
        return value

    def pick(self, element: str = "f32", rank: int | None = None) -> Value:
        fitting = [v for v in self.values if v.element == element and rank in (None, len(v.shape))]
        return self.draw(st.sampled_from(fitting))

    def one_of(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def number(self, shape: Shape, text: str | None = None) -> Value:
        return self.emit(f"stablehlo.constant dense<{text or self.one_of(*NUMBERS)}>", shape, "f32")

    def like(self, value: Value) -> Value:
        """A value of the same type: one that exists, or a splat constant."""
        same = [other for other in self.values if other.type == value.type]
        return self.draw(st.sampled_from(same)) if self.one_of(True, False) else self.number(value.shape)

    def binary(self, name: str, x: Value, y: Value) -> Value:
        return self.emit(f"stablehlo.{name} {x.name}, {y.name}", x.shape, x.element)

    def broadcast(self, x: Value, shape: Shape, dims: list[int]) -> Value:
        text = f"stablehlo.broadcast_in_dim {x.name}, dims = {dims}"
        return self.emit(text, shape, x.element, f"({x.type}) -> {tensor(shape, x.element)}")

    def reduced(self, kind: str, x: Value, dims: list[int]) -> Value:
        start = self.number((), {"add": "0.0", "maximum": "0xFF800000", "minimum": "0x7F800000"}[kind])
        shape = tuple(n for i, n in enumerate(x.shape) if i not in dims)
        text = f"stablehlo.reduce({x.name} init: {start.name}) applies stablehlo.{kind} "
        text += f"across dimensions = {dims}"
        return self.emit(text, shape, "f32", f"({x.type}, tensor<f32>) -> {tensor(shape, 'f32')}")

    def dot(self, x: Value, y: Value, batch: int, contract: tuple[int, int]) -> Value:
        """The first `batch` dimensions of both are batch dimensions."""
        keep = [
            [n for i, n in enumerate(v.shape) if i >= batch and i != c] for v, c in ((x, contract[0]), (y, contract[1]))
        ]
        shape = (*x.shape[:batch], *keep[0], *keep[1])
        dims = list(range(batch))
        text = f"stablehlo.dot_general {x.name}, {y.name}, batching_dims = {dims} x {dims}, "
        text += f"contracting_dims = [{contract[0]}] x [{contract[1]}]"
        return self.emit(text, shape, "f32", f"({x.type}, {y.type}) -> {tensor(shape, 'f32')}")


def unary(p: Program) -> None:
    x = p.pick()
    name = p.one_of("tanh", "negate", "abs", "logistic", "sine", "exponential")
    p.emit(f"stablehlo.{name} {x.name}", x.shape, "f32")


def binary(p: Program) -> None:
    x = p.pick()
    operands = (x, p.like(x))
    if p.one_of(True, False):
        operands = operands[::-1]
    p.binary(str(p.one_of("add", "subtract", "multiply", "divide", "maximum", "minimum")), *operands)


def compare_and_select(p: Program) -> None:
    x = p.pick()
    direction = p.one_of("LT", "GE", "EQ", "NE")
    y = p.like(x)
    types = f"({x.type}, {y.type}) -> {tensor(x.shape, 'i1')}"
    test = p.emit(f"stablehlo.compare {direction}, {x.name}, {y.name}, FLOAT", x.shape, "i1", types)
    p.emit(f"stablehlo.select {test.name}, {x.name}, {p.like(x).name}", x.shape, "f32", f"{test.type}, {x.type}")


def logic(p: Program) -> None:
    x = p.pick("i1")
    same = [v for v in p.values if v.type == x.type]
    if p.one_of(True, False):
        p.emit(f"stablehlo.not {x.name}", x.shape, "i1")
    else:
        p.emit(f"stablehlo.{p.one_of('and', 'or', 'xor')} {x.name}, {p.one_of(*same).name}", x.shape, "i1")


def convert(p: Program) -> None:
    """Through a narrower type and back, from a boolean, or to the same type."""
    x = p.pick(str(p.one_of("f32", "i1")))
    between = p.one_of("bf16", "f16", "f32", "i1") if x.element == "f32" else p.one_of("i32", "f32")
    for element in (str(between), "f32"):
        types = f"({x.type}) -> {tensor(x.shape, element)}"
        x = p.emit(f"stablehlo.convert {x.name}", x.shape, element, types)


def transpose(p: Program) -> None:
    x = p.pick()
    order = p.draw(st.permutations(range(len(x.shape))))
    shape = tuple(x.shape[i] for i in order)
    p.emit(
        f"stablehlo.transpose {x.name}, dims = {list(order)}",
        shape,
        "f32",
        f"({x.type}) -> {tensor(shape, 'f32')}",
    )


def reshape(p: Program) -> None:
    x = p.pick()
    shapes = [(math.prod(x.shape),), (1, *x.shape), (*x.shape, 1), tuple(n for n in x.shape if n > 1)]
    shape: Shape = p.one_of(*shapes)
    p.emit(f"stablehlo.reshape {x.name}", shape, "f32", f"({x.type}) -> {tensor(shape, 'f32')}")


def broadcast(p: Program) -> None:
    x = p.pick()
    if len(x.shape) < 4:
        p.broadcast(x, (p.one_of(1, 3), *x.shape), list(range(1, len(x.shape) + 1)))


def slice_and_join(p: Program) -> None:
    x = p.pick()
    if x.shape and x.shape[0] > 1:
        ranges = ", ".join(["0:1", *(f"0:{n}" for n in x.shape[1:])])
        shape = (1, *x.shape[1:])
        first = p.emit(f"stablehlo.slice {x.name} [{ranges}]", shape, "f32", f"({x.type}) -> {tensor(shape, 'f32')}")
        joined = (x.shape[0] + 1, *x.shape[1:])
        types = f"({x.type}, {first.type}) -> {tensor(joined, 'f32')}"
        p.emit(f"stablehlo.concatenate {x.name}, {first.name}, dim = 0", joined, "f32", types)


def reduce(p: Program) -> None:
    x = p.pick()
    dims = p.draw(st.sets(st.sampled_from(range(len(x.shape))), min_size=1)) if x.shape else []
    p.reduced(str(p.one_of("add", "maximum", "minimum")), x, sorted(dims))


def dot(p: Program) -> None:
    x = p.pick()
    fitting = [
        (y, batch, (i, j))
        for y in p.values
        if y.element == "f32"
        for batch in (0, 1)
        if batch == 0 or (x.shape[:1] == y.shape[:1] and x.shape)
        for i in range(batch, len(x.shape))
        for j in range(batch, len(y.shape))
        if x.shape[i] == y.shape[j] and len(x.shape) + len(y.shape) - 2 - batch <= 4
    ]
    if fitting:
        y, batch, contract = p.one_of(*fitting)
        p.dot(x, y, batch, contract)


def softmax(p: Program) -> None:
    x = p.pick()
    if x.shape:
        softmax_of(p, x)


def softmax_of(p: Program, x: Value) -> Value:
    last, others = len(x.shape) - 1, list(range(len(x.shape) - 1))
    top = p.reduced("maximum", x, [last])
    if p.one_of(True, False):
        top = p.binary("maximum", p.number(top.shape, "0xFF800000"), top)
    shifted = p.binary("subtract", x, p.broadcast(top, x.shape, others))
    weights = p.emit(f"stablehlo.exponential {shifted.name}", x.shape, "f32")
    total = p.broadcast(p.reduced("add", weights, [last]), x.shape, others)
    return p.binary("divide", weights, total)


def attention(p: Program) -> None:
    """softmax(q kᵀ) v with some of: scale, mask, bias, and either order of the operands."""
    q, k = (p.one_of(*[v for v in p.values if v.type == tensor((2, 4, 6), "f32")]) for _ in range(2))
    x = p.dot(q, k, 1, (2, 2))
    if p.one_of(True, False):
        x = p.binary("multiply", x, p.number(x.shape, "0.4"))
    if p.one_of(True, False):
        rows, columns = (p.emit(f"stablehlo.iota dim = {d}", x.shape, "i32") for d in (1, 2))
        types = f"({rows.type}, {rows.type}) -> {tensor(x.shape, 'i1')}"
        seen = p.emit(f"stablehlo.compare GE, {rows.name}, {columns.name}", x.shape, "i1", types)
        fill = p.number(x.shape, str(p.one_of("0xFF800000", "-3.40282347E+38", "-1.0e9")))
        x = p.emit(f"stablehlo.select {seen.name}, {x.name}, {fill.name}", x.shape, "f32", f"{seen.type}, {x.type}")
    if p.one_of(True, False):
        x = p.binary("add", x, p.like(x))
    weights = softmax_of(p, x)
    if p.one_of(True, False):
        p.dot(weights, k, 1, (2, 1))
    else:
        p.dot(k, weights, 1, (1, 2))


def call(p: Program) -> None:
    x = p.pick(rank=2)
    if x.shape == (4, 6):
        name = p.one_of("relu", "gelu", "where")
        arguments = f"{x.name}, {p.one_of(*[v for v in p.values if v.type == tensor((4, 6), 'i1')]).name}"
        p.emit(f"func.call @{name}({arguments})", (4, 6), "f32", f"({x.type}, tensor<4x6xi1>) -> {x.type}")


def loop(p: Program) -> None:
    """x = tanh(x + y), three times."""
    x = p.pick()
    y = p.like(x)
    start, one, end = (p.emit(f"stablehlo.constant dense<{n}>", (), "i32") for n in (0, 1, 3))
    number = next(p.names)
    p.lines.append(
        f"%w{number}:2 = stablehlo.while(%i = {start.name}, %x = {x.name}) : tensor<i32>, {x.type}\n"
        f"cond {{ %c = stablehlo.compare LT, %i, {end.name} : (tensor<i32>, tensor<i32>) -> tensor<i1>\n"
        f"  stablehlo.return %c : tensor<i1> }}\n"
        f"do {{ %n = stablehlo.add %i, {one.name} : tensor<i32>\n"
        f"  %s = stablehlo.add %x, {y.name} : {x.type}\n"
        f"  %t = stablehlo.tanh %s : {x.type}\n"
        f"  stablehlo.return %n, %t : tensor<i32>, {x.type} }}"
    )
    p.values.append(Value(f"%w{number}#1", x.shape, "f32"))


def branch(p: Program) -> None:
    x, y = p.pick(), next(p.names)
    index = p.emit(f"stablehlo.constant dense<{p.one_of(0, 1, 7)}>", (), "i32")
    p.lines.append(
        f'%b{y} = "stablehlo.case"({index.name}) ({{\n'
        f"  %s = stablehlo.sine {x.name} : {x.type}\n  stablehlo.return %s : {x.type}\n}}, {{\n"
        f"  stablehlo.return {x.name} : {x.type}\n}}) : (tensor<i32>) -> {x.type}"
    )
    p.values.append(Value(f"%b{y}", x.shape, "f32"))


OPERATIONS = [
    unary, binary, binary, compare_and_select, logic, convert, transpose, reshape, broadcast, slice_and_join,
    reduce, dot, softmax, attention, call, loop, branch,
]  # fmt: skip

FUNCTIONS = """
func.func private @where(%x: tensor<4x6xf32>, %m: tensor<4x6xi1>) -> tensor<4x6xf32> {
  %c = stablehlo.constant dense<-1.0e9> : tensor<f32>
  %f = stablehlo.broadcast_in_dim %c, dims = [] : (tensor<f32>) -> tensor<4x6xf32>
  %0 = stablehlo.select %m, %x, %f : tensor<4x6xi1>, tensor<4x6xf32>
  return %0 : tensor<4x6xf32>
}
func.func private @relu(%x: tensor<4x6xf32>, %m: tensor<4x6xi1>) -> tensor<4x6xf32> {
  %c = stablehlo.constant dense<0.0> : tensor<4x6xf32>
  %0 = stablehlo.maximum %x, %c : tensor<4x6xf32>
  %1 = call @where(%0, %m) : (tensor<4x6xf32>, tensor<4x6xi1>) -> tensor<4x6xf32>
  return %1 : tensor<4x6xf32>
}
func.func private @gelu(%x: tensor<4x6xf32>, %m: tensor<4x6xi1>) -> tensor<4x6xf32> {
  %c = stablehlo.constant dense<-0.707106769> : tensor<4x6xf32>
  %h = stablehlo.constant dense<0.5> : tensor<4x6xf32>
  %0 = stablehlo.multiply %x, %c : tensor<4x6xf32>
  %1 = chlo.erfc %0 : tensor<4x6xf32> -> tensor<4x6xf32>
  %2 = stablehlo.multiply %x, %1 : tensor<4x6xf32>
  %3 = stablehlo.multiply %2, %h : tensor<4x6xf32>
  return %3 : tensor<4x6xf32>
}"""


@st.composite
def programs(draw: Draw) -> str:
    arguments = [Value(f"%arg{i}", shape, element) for i, (shape, element) in enumerate(ARGUMENTS)]
    program = Program(draw, list(arguments))
    for _ in range(draw(st.integers(3, 14))):
        draw(st.sampled_from(OPERATIONS))(program)
    computed = program.values[len(arguments) :] or arguments
    results: list[Value] = [computed[-1], *draw(st.lists(st.sampled_from(computed), max_size=2))]
    signature = ", ".join(f"{v.name}: {v.type}" for v in arguments)
    types = ", ".join(v.type for v in results)
    body = "\n".join([*program.lines, f"return {', '.join(v.name for v in results)} : {types}"])
    return f"func.func @main({signature}) -> ({types}) {{\n{body}\n}}\n{FUNCTIONS}"


def inputs() -> list[tuple[str, list[np.ndarray]]]:
    rng = np.random.default_rng(0)
    ordinary = [rng.standard_normal(s).astype(np.float32) if e == "f32" else rng.random(s) < 0.7 for s, e in ARGUMENTS]
    special = [array.copy() for array in ordinary]
    special[0][1, 2], special[1][3], special[2][0, 1] = np.nan, np.inf, -np.inf
    special[4][2] = False
    return [("ordinary", ordinary), ("special", special)]


@pytest.mark.parametrize(
    "pipeline", ["default", "fuse-attention{min-seq=0}", "prepare,raise-attention,expand-composites"]
)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(source=programs())
def test_same_numbers(pipeline: str, source: str) -> None:
    original = Module.parse(source)
    rewritten = original.run(pipeline)
    assert rewritten.operation.verify()
    assert Module.parse(rewritten.text()).operation.verify()
    certificate = certify_pair(original, rewritten, inputs=inputs())
    assert certificate.sound, certificate.summary
