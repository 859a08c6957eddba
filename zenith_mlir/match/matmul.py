"""A product of two operands and the elementwise operations that follow it, in the words of zenith.matmul.

The walk goes down from the product's result as long as it has a single user that is one of `_FOLLOWERS`: each adds a
step, and with it what it reads besides (a bias, a residual). Where the program rounds on the way the steps say so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxlib.mlir import ir

from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.dialects.matmul import MatmulSpec, Step
from zenith_mlir.ir.composites import composite_attributes, composite_name
from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import (
    defined_by,
    element_type,
    float_width,
    has_static_shape,
    int_list,
    is_float_convert,
    shape,
    splat,
    users,
)

_ROUNDS = {"bf16": "bfloat16", "f16": "float16"}


@dataclass
class Product:
    """What is replaced by one zenith.matmul: `ops` in program order, the last of which computes `result`."""

    spec: MatmulSpec
    operands: list[ir.Value]
    ops: list[ir.Operation]
    result: ir.Value


def match_product(dot: ir.Operation) -> Product | None:
    """The product that `dot` computes, with what follows it; None if an operand is no float of 16 bits."""
    if not all(has_static_shape(value) for value in (*dot.operands, *dot.results)):
        return None
    if not all(str(element_type(value)) in _ROUNDS for value in dot.operands) or 0 in shape(dot.results[0]):
        return None
    walk = _Walk(dot)
    while walk.follow():
        pass
    return walk.product()


@dataclass
class _Walk:
    dot: ir.Operation
    value: ir.Value = field(init=False)
    operands: list[ir.Value] = field(init=False)
    ops: list[ir.Operation] = field(init=False)
    modifiers: list[Layout] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.value, self.operands, self.ops = self.dot.results[0], list(self.dot.operands), [self.dot]
        lhs, rhs = (shape(operand) for operand in self.operands)
        dims = DotDims.of(self.dot)
        left, right = [""] * len(lhs), [""] * len(rhs)
        for letter, of_lhs, of_rhs in (
            ("p", dims.lhs_batch, dims.rhs_batch),
            ("k", dims.lhs_contracting, dims.rhs_contracting),
        ):
            for i, (a, b) in enumerate(zip(of_lhs, of_rhs, strict=True)):
                left[a] = right[b] = f"{letter}{i}"
        for letter, names in (("m", left), ("n", right)):
            for i, place in enumerate(place for place, name in enumerate(names) if not name):
                names[place] = f"{letter}{i}"
        self.axes = dict(zip(left, lhs, strict=True)) | dict(zip(right, rhs, strict=True))
        self.lhs, self.rhs = (self._operand_layout(i, names) for i, names in enumerate((left, right)))
        self.out = [left[i] for i in (*dims.lhs_batch, *dims.lhs_free(len(lhs)))]
        self.out += [right[i] for i in dims.rhs_free(len(rhs))]

    def _operand_layout(self, index: int, names: list[str]) -> Layout:
        """That of an operand; one that is transposed first is read as it lies."""
        transpose = defined_by(self.operands[index], "stablehlo.transpose")
        if transpose is None:
            return Layout(tuple((name,) for name in names))
        self.ops.insert(0, transpose)
        self.operands[index] = transpose.operands[0]
        lying = dict(zip(int_list(transpose, "permutation"), names, strict=True))
        return Layout(tuple((lying[i],) for i in range(len(names))))

    def follow(self) -> bool:
        """Take the only user of the value along, if it is one that a step says."""
        readers = users(self.value)
        if len(readers) != 1 or len(list(self.value.uses)) != 1:
            return False
        (user,) = readers
        take = _FOLLOWERS.get(composite_name(user) if user.name == "stablehlo.composite" else user.name)
        if take is None or len(user.results) != 1 or user.operation.block != self.dot.block:
            return False
        rounding = self._rounding()
        step = take(self, user)
        if step is None:
            return False
        self.steps += [*rounding, *step]
        self.ops.append(user)
        self.value = user.results[0]
        return True

    def _rounding(self) -> list[Step]:
        name = _ROUNDS.get(str(element_type(self.value)))
        return [] if name is None else [Step("round", dtype=name)]

    def other(self, user: ir.Operation) -> ir.Value:
        left, right = user.operands
        return right if left == self.value else left

    def modifier(self, value: ir.Value) -> int | None:
        """The number of the role that `value` gets, read through the operation that broadcasts it."""
        broadcast = defined_by(value, "stablehlo.broadcast_in_dim")
        source = value if broadcast is None else broadcast.operands[0]
        places = range(len(self.out)) if broadcast is None else int_list(broadcast, "broadcast_dimensions")
        if float_width(element_type(source)) not in (16, 32):
            return None
        dims = (
            (self.out[p],) if n == self.axes[self.out[p]] else () for p, n in zip(places, shape(source), strict=True)
        )
        self.modifiers.append(Layout(tuple(dims)))
        self.operands.append(source)
        if broadcast is not None:
            self.ops.append(broadcast)
        return 1 + len(self.modifiers)

    def product(self) -> Product:
        distinct: list[ir.Value] = []
        for operand in self.operands:
            if operand not in distinct:
                distinct.append(operand)
        spec = MatmulSpec(
            axes=self.axes,
            lhs=self.lhs,
            rhs=self.rhs,
            out=Layout(tuple((name,) for name in self.out)),
            modifiers=tuple(self.modifiers),
            steps=tuple(self.steps),
            sources=tuple(distinct.index(operand) for operand in self.operands),
        )
        return Product(spec, distinct, self.ops, self.value)


def _convert(walk: _Walk, user: ir.Operation) -> list[Step] | None:
    """Rounding is said by the step before it, widening changes nothing."""
    return [] if is_float_convert(user) and float_width(element_type(user.results[0])) in (16, 32) else None


def _arithmetic(by_number: str, by_operand: str) -> Callable[[_Walk, ir.Operation], list[Step] | None]:
    def take(walk: _Walk, user: ir.Operation) -> list[Step] | None:
        other = walk.other(user)
        number = splat(other)
        if number is not None:
            return [Step(by_number, value=float(number))]
        role = walk.modifier(other)
        return None if role is None else [Step(by_operand, operand=role)]

    return take


def _relu(walk: _Walk, user: ir.Operation) -> list[Step] | None:
    return [Step("relu")] if splat(walk.other(user)) == 0 else None


def _activation(kind: str) -> Callable[[_Walk, ir.Operation], list[Step] | None]:
    return lambda walk, user: [Step(kind)] if len(user.operands) == 1 else None


def _gelu(walk: _Walk, user: ir.Operation) -> list[Step] | None:
    attributes = from_attribute(composite_attributes(user))
    return [Step("gelu" if attributes["approximate"] == "none" else "gelu_tanh")] if len(user.operands) == 1 else None


def _silu(walk: _Walk, user: ir.Operation) -> list[Step] | None:
    attributes = from_attribute(composite_attributes(user))
    return [Step("silu")] if len(user.operands) == 1 and attributes["slope"] == 1 else None


_FOLLOWERS: dict[str, Callable[[_Walk, ir.Operation], list[Step] | None]] = {
    "stablehlo.convert": _convert,
    "stablehlo.add": _arithmetic("offset", "add"),
    "stablehlo.multiply": _arithmetic("scale", "multiply"),
    "stablehlo.maximum": _relu,
    "stablehlo.tanh": _activation("tanh"),
    "stablehlo.logistic": _activation("sigmoid"),
    "zenith.silu": _silu,
    "zenith.gelu": _gelu,
}
