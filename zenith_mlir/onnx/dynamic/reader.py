"""Reading a program in order: the shape of every value, the integers that shapes are made of, the equations between
them, and the static counterparts of dynamic operations. Nothing is changed.
"""

from __future__ import annotations

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.dimensions import size_name, stated_dimensions
from zenith_mlir.ir.facts import defined_by
from zenith_mlir.ir.location import UNKNOWN, source_frame
from zenith_mlir.ir.loops import Loop
from zenith_mlir.ir.signature import argument_attributes
from zenith_mlir.onnx.dynamic import numbers
from zenith_mlir.onnx.dynamic.counterparts import COUNTERPARTS, Counterpart, counterpart_name
from zenith_mlir.onnx.dynamic.equations import Equations
from zenith_mlir.onnx.dynamic.expr import Expr, parse
from zenith_mlir.onnx.dynamic.numbers import Numbers
from zenith_mlir.onnx.dynamic.shapes import RULES, Shape, integer

__all__ = ["NAME", "Reader", "is_dynamic"]

# On an operation whose result is the size of that symbol.
NAME = "zenith.size"


def is_dynamic(value: ir.Value) -> bool:
    return isinstance(value.type, ir.RankedTensorType) and not value.type.has_static_shape


class Reader:
    """What is known of the values of `main` after reading it.

    `sizes_in` are the arguments that hold sizes, `data` the others; `assertions` are checks of shapes, to be dropped.
    """

    def __init__(self, main: ir.Operation):
        self.equations = Equations()
        self.counterparts: dict[ir.Operation, Counterpart] = {}
        self.assertions: list[ir.Operation] = []
        self.sizes_in: list[ir.BlockArgument] = []
        self.data: list[ir.BlockArgument] = []
        self._shapes: dict[ir.Value, Shape] = {}
        self._numbers: dict[ir.Value, Numbers] = {}
        self._opaque = 0
        block = main.regions[0].blocks[0]
        self._read_arguments(main, block)
        self._read_block(block)
        self.equations.finish()

    # What is known

    def shape(self, value: ir.Value) -> Shape:
        if value not in self._shapes:
            if not isinstance(value.type, ir.RankedTensorType) or is_dynamic(value):
                raise ZenithError(f"the shape of {value} is not known")
            return tuple(map(Expr.number, value.type.shape))
        return tuple(map(self.equations.resolve, self._shapes[value]))

    def known(self, value: ir.Value) -> Numbers | None:
        """The elements of a value of integers, as far as they were followed."""
        found = self._numbers.get(value)
        return None if found is None else np.vectorize(self.resolve, otypes=[object])(found)

    def numbers(self, value: ir.Value) -> Numbers:
        """The elements of a short vector of integers; atoms of their own where nothing is known."""
        if value not in self._numbers:
            self._opaque += 1
            self._numbers[value] = numbers.opaque(value, f"value{self._opaque}")
        known = self.known(value)
        assert known is not None
        return known

    def sizes(self, value: ir.Value, op: ir.Operation) -> Shape:
        """The elements of a shape operand of `op`.

        Raises: ZenithError if one of them depends on data.
        """
        found = tuple(self.numbers(value).reshape(-1))
        for size in found:
            if not size.is_stated:
                raise ZenithError(
                    f"{self.place(op)} makes a shape of numbers that do not follow from the sizes of the inputs; such "
                    "a shape can be stated neither in a static module nor by a name"
                )
        return found

    def matrix(self, value: ir.Value, op: ir.Operation) -> Numbers:
        """The same of a matrix, as padding is."""
        return np.array([None, *self.sizes(value, op)], object)[1:].reshape(value.type.shape)

    def resolve(self, value: Expr) -> Expr:
        return self.equations.resolve(value)

    def equate(self, a: Expr, b: Expr, op: ir.Operation) -> None:
        self.equations.equate(a, b, self.place(op))

    def equate_shapes(self, a: Shape, b: Shape, op: ir.Operation) -> None:
        for x, y in zip(a, b, strict=True):
            self.equate(x, y, op)

    @staticmethod
    def place(op: ir.Operation) -> str:
        """The operation and the user's line, for messages."""
        frame = source_frame(op.location)
        return counterpart_name(op) if frame == UNKNOWN else f"{frame.file}:{frame.line}: {counterpart_name(op)}"

    def all_sizes(self) -> set[Expr]:
        """Every dimension of every value, and the integers of the counterparts' attributes."""
        found = {self.resolve(size) for shape in self._shapes.values() for size in shape}
        for counterpart in self.counterparts.values():
            found |= {self.resolve(each) for shape in counterpart.shapes for each in shape}
            found |= {self.resolve(each) for array in counterpart.integers.values() for each in array.reshape(-1)}
        return found

    # Reading

    def _read_arguments(self, main: ir.Operation, block: ir.Block) -> None:
        attributes = argument_attributes(main)
        names = [size_name(each) for each in attributes] or [None] * len(block.arguments)
        for argument, name in zip(block.arguments, names, strict=True):
            if name is None:
                self.data.append(argument)
            else:
                self.sizes_in.append(argument)
                self._numbers[argument] = np.array(Expr.symbol(name), object).reshape(argument.type.shape)
        for position, argument in enumerate(self.data):
            if is_dynamic(argument):
                stated = stated_dimensions(attributes[argument.arg_number]) if attributes else None
                self._shapes[argument] = self._argument_shape(position, argument, stated)

    def _argument_shape(self, position: int, argument: ir.BlockArgument, stated: list[str] | None) -> Shape:
        type_ = argument.type
        shape = []
        for d in range(type_.rank):
            if not type_.is_dynamic_dim(d):
                shape.append(Expr.number(type_.get_dim_size(d)))
            elif stated is not None:
                shape.append(parse(stated[d]))
            else:
                shape.append(self.equations.free(f"arg{position}_dim{d}"))
        return tuple(shape)

    def _read_block(self, block: ir.Block) -> None:
        for view in block.operations:
            op = view.operation
            if op.name in _REGIONS:
                _REGIONS[op.name](self, op)
            elif counterpart_name(op) == "shape_assertion":
                self._read_assertion(op)
            elif counterpart_name(op) in COUNTERPARTS:
                self.counterparts[op] = counterpart = COUNTERPARTS[counterpart_name(op)](self, op)
                self._set_shapes(op, counterpart.shapes)
            else:
                self._read_numbers(op)
                if any(map(is_dynamic, op.results)):
                    self._set_shapes(op, self._inferred(op))
                elif op.name in RULES and any(map(is_dynamic, op.operands)):
                    RULES[op.name](self, op)  # for its equations

    def _inferred(self, op: ir.Operation) -> list[Shape]:
        rule = RULES.get(op.name)
        if rule is None and op.name.startswith("chlo."):
            rule = RULES["stablehlo.add"]  # all others are elementwise
        if rule is None:
            raise ZenithError(
                f"{self.place(op)} has a result of dynamic shape, and no rule says which; trace the program with "
                "static sizes, or write the operation in other ones"
            )
        return rule(self, op)

    def _set_shapes(self, op: ir.Operation, shapes: list[Shape]) -> None:
        for result, shape in zip(op.results, shapes, strict=True):
            self._meet(result, shape, op)
            self._shapes[result] = shape

    def _meet(self, value: ir.Value, shape: Shape, op: ir.Operation) -> None:
        """Let a shape agree with what the type of `value` says."""
        for d, size in enumerate(shape):
            if not value.type.is_dynamic_dim(d):
                self.equate(size, Expr.number(value.type.get_dim_size(d)), op)

    def _read_numbers(self, op: ir.Operation) -> None:
        if len(op.results) != 1 or not _is_short_integers(op.results[0]):
            return
        if op.name == "stablehlo.get_dimension_size":
            size = self.shape(op.operands[0])[integer(op, "dimension")]
            found: Numbers | None = np.array(size, object)
        else:
            if not all(_is_short_integers(operand) for operand in op.operands):
                return
            found = numbers.evaluate(op, [self.numbers(operand) for operand in op.operands])
        if found is not None:
            self._numbers[op.results[0]] = found
        if found is not None and NAME in op.attributes:
            name = Expr.symbol(str(ir.StringAttr(op.attributes[NAME]).value))
            self.equate(found.reshape(-1)[0], name, op)

    def _read_assertion(self, op: ir.Operation) -> None:
        """An asserted equality is an equation; other assertions say nothing that is needed here."""
        self.assertions.append(op)
        compare = defined_by(op.operands[0], "stablehlo.compare")
        if compare is not None and "EQ" in str(compare.attributes["comparison_direction"]):
            a, b = (self.numbers(operand).reshape(-1)[0] for operand in compare.operands)
            self.equate(a, b, op)

    def _read_while(self, op: ir.Operation) -> None:
        loop = Loop(op)
        for i, init in enumerate(loop.operands):
            for argument in (loop.cond.arguments[i], loop.body.arguments[i]):
                if is_dynamic(init) or is_dynamic(argument):
                    self._shapes[argument] = self.shape(init)
                if loop.is_invariant(i) and init in self._numbers:
                    self._numbers[argument] = self._numbers[init]
        self._read_block(loop.cond)
        self._read_block(loop.body)
        for init, returned, result in zip(loop.operands, loop.returned, op.results, strict=True):
            if is_dynamic(result) or is_dynamic(returned):
                self.equate_shapes(self.shape(init), self.shape(returned), op)
                self._shapes[result] = self.shape(init)

    def _read_branches(self, op: ir.Operation) -> None:
        for region in op.regions:
            block = region.blocks[0]
            self._read_block(block)
            returned = list(block.operations)[-1].operation.operands
            for value, result in zip(returned, op.results, strict=True):
                if is_dynamic(result):
                    self.equate_shapes(self._shapes.setdefault(result, self.shape(value)), self.shape(value), op)


def _is_short_integers(value: ir.Value) -> bool:
    type_ = value.type
    if not isinstance(type_, ir.RankedTensorType) or not type_.has_static_shape:
        return False
    return isinstance(type_.element_type, ir.IntegerType) and int(np.prod(type_.shape)) <= numbers.MAX_ELEMENTS


_REGIONS = {
    "stablehlo.while": Reader._read_while,
    "stablehlo.if": Reader._read_branches,
    "stablehlo.case": Reader._read_branches,
}
