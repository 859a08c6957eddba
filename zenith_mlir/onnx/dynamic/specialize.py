"""specialize: from a module with symbolic dimensions to a static one, and what each size in it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from jaxlib.mlir import ir

from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.diagnostics import describe
from zenith_mlir.ir.dimensions import size_name
from zenith_mlir.ir.facts import walk, walk_named
from zenith_mlir.ir.inline import inline_all_calls, inline_body
from zenith_mlir.ir.loops import Loop, capture_invariants, drop_unused
from zenith_mlir.ir.signature import argument_attributes, main_function
from zenith_mlir.ir.symbols import callee, drop_unused_private_functions, functions
from zenith_mlir.module import Module
from zenith_mlir.onnx.dynamic.decoding import Decoder
from zenith_mlir.onnx.dynamic.expr import Expr, floordiv
from zenith_mlir.onnx.dynamic.reader import NAME, Reader, is_dynamic
from zenith_mlir.onnx.dynamic.scalars import free_values
from zenith_mlir.onnx.dynamic.shapes import Shape
from zenith_mlir.onnx.dynamic.substitution import make_static
from zenith_mlir.onnx.dynamic.witness import Requirements, Witnesses, choose

__all__ = ["Specialized", "specialize"]

Place = tuple[int, int]


@dataclass(frozen=True)
class Specialized:
    """A static module in which numbers stand for symbolic sizes.

    `sizes` says what each of these numbers means, `scalars` which argument of `main` is which expression, `inputs` the
    shapes of the other arguments. A symbol is read off the (argument, axis) places of `symbols`; one that is a
    dimension of no argument has none there, but an expression in `solved`, over symbols that do. `assumed` are pairs of
    sizes that the program needs to be equal. Of the numbers in attributes, those of slices, pads and windows, and the
    sizes of slices that a gather takes, can mean sizes too.
    """

    module: Module
    sizes: Mapping[int, Expr]
    scalars: Mapping[int, Expr]
    inputs: Mapping[int, tuple[Expr | int, ...]]
    symbols: Mapping[str, list[Place]]
    solved: Mapping[str, Expr]
    assumed: Sequence[tuple[Expr, Expr]]
    witnesses: Witnesses
    _decoder: Decoder = field(repr=False)

    def decode(self, size: int) -> Expr | int:
        """What a size in the module means, after passes have made new ones too: an expression, or the number itself.

        Raises: ZenithError if it means nothing known, or more than one thing.
        """
        return self._decoder(size)


def specialize(module: Module, salt: int = 0, at: Mapping[str, int] | None = None) -> Specialized:
    """A static module that stands for `module` at every size of its symbolic dimensions.

    `module` is traced with `jax.export.symbolic_shape` dimensions, comes from `jax.export`, or is text with `?` (a
    dimension that has no name is called `arg0_dim1`). Symbols are at least 1. `salt` varies the numbers chosen. With
    `at`, the module is that of these very sizes, to be run beside the original; nothing can be decoded then.

    Raises: ZenithError for sizes that depend on data, operations whose results' sizes are not known, and symbols that
    cannot be computed from the shapes of the inputs.
    """
    work = module.clone()
    with work.context, ir.Location.unknown():
        main = main_function(work.ir)
        _mark_named(main, work.operation)
        _flatten(work.operation, main)
        reader = Reader(main)
        witnesses = choose(_requirements(main, reader), salt) if at is None else Witnesses(at, {})
        make_static(work.operation, main, reader, witnesses)
        meanings = free_values(main, reader, witnesses.floor)
        for argument in reversed(reader.sizes_in):
            main.regions[0].blocks[0].erase_argument(argument.arg_number)
        _set_signature(main, reader)
        drop_unused_private_functions(work.operation)
        try:
            work.operation.verify()
        except ir.MLIRError as error:
            raise ZenithError(
                f"the module cannot be made static at {dict(witnesses.symbols)}: {describe(error)}"
            ) from error
    return _described(work, main, reader, witnesses, meanings)


def _mark_named(main: ir.Operation, module: ir.Operation) -> None:
    """Mark sizes of which a call says the name: jax.export computes them in main and hands them to the program."""
    table = functions(module)
    for call in walk_named(main, "func.call"):
        said = argument_attributes(table[callee(call)])
        for i, attributes in enumerate(said):
            name = size_name(attributes)
            if name is not None:
                with ir.InsertionPoint(call), call.location:
                    value = call.operands[i]
                    mark: dict[str, ir.Attribute] = {NAME: ir.StringAttr.get(name)}
                    call.operands[i] = ir.Operation.create("stablehlo.reshape", [value.type], [value], mark).results[0]


def _flatten(module: ir.Operation, main: ir.Operation) -> None:
    """One function, with loops that use integers that do not change from outside."""
    for op in walk_named(main, "stablehlo.composite"):
        if any(map(is_dynamic, [*op.operands, *op.results])):
            inline_body(functions(module)[str(ir.FlatSymbolRefAttr(op.attributes["decomposition"]).value)], op)
    inline_all_calls(module)
    while calls := walk_named(main, "func.call"):  # those that carry attributes of their own
        for call in calls:
            inline_body(functions(module)[callee(call)], call)
    for op in reversed(walk_named(main, "stablehlo.while")):
        loop = Loop(op)
        integers = [i for i, value in enumerate(loop.operands) if _is_integer_scalar(value)]
        capture_invariants(loop, integers)
        drop_unused(loop)


def _is_integer_scalar(value: ir.Value) -> bool:
    type_ = value.type
    return isinstance(type_, ir.RankedTensorType) and not type_.rank and isinstance(type_.element_type, ir.IntegerType)


def _requirements(main: ir.Operation, reader: Reader) -> Requirements:
    sizes = {size for size in reader.all_sizes() if size.constant is None}
    numbers, shapes = set(), set()
    for value in _values(main):
        if isinstance(value.type, ir.RankedTensorType):
            shape = reader.shape(value)
            numbers |= {size.constant for size in shape if size.constant is not None}
            if is_dynamic(value):
                shapes.add(shape)
    for op in walk(main):
        if op.name in _WITH_SIZES:
            numbers |= {each for name in _WITH_SIZES[op.name] for each in ir.DenseI64ArrayAttr(op.attributes[name])}
    for counterpart in reader.counterparts.values():
        numbers |= {each.constant for array in counterpart.integers.values() for each in array.reshape(-1)} - {None}
    paddings = {
        reader.resolve(each)
        for counterpart in reader.counterparts.values()
        for name, array in counterpart.integers.items()
        if "padding" in name
        for each in array.reshape(-1)
        if each.bounds[1] > 0
    }
    return Requirements(sizes, frozenset(map(abs, numbers)), reader.equations.assumed, shapes, paddings)


# Static operations with attributes that are compared with sizes.
_WITH_SIZES = {
    "stablehlo.slice": ("start_indices", "limit_indices"),
    "stablehlo.dynamic_slice": ("slice_sizes",),
    "stablehlo.gather": ("slice_sizes",),
    "stablehlo.pad": ("edge_padding_low", "edge_padding_high"),
}


def _values(main: ir.Operation) -> list[ir.Value]:
    found = list(main.regions[0].blocks[0].arguments)
    for op in walk(main):
        found += [*op.results, *(a for region in op.regions for block in region.blocks for a in block.arguments)]
    return found


def _set_signature(main: ir.Operation, reader: Reader) -> None:
    """The type of `main` after its body, and what is said of the arguments that stayed."""
    block = main.regions[0].blocks[0]
    arguments = [argument.type for argument in block.arguments]
    results = [value.type for value in list(block.operations)[-1].operation.operands]
    said = argument_attributes(main)
    main.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get(arguments, results))
    if said:
        kept = [each for each in said if size_name(each) is None]
        kept += [ir.DictAttr.get({})] * (len(arguments) - len(kept))
        main.attributes["arg_attrs"] = ir.ArrayAttr.get(kept)


def _described(
    module: Module, main: ir.Operation, reader: Reader, witnesses: Witnesses, meanings: Mapping[ir.Value, Expr]
) -> Specialized:
    arguments = list(main.regions[0].blocks[0].arguments)
    scalars = {argument.arg_number: meanings[argument] for argument in arguments if argument in meanings}
    shapes = {argument.arg_number: reader.shape(argument) for argument in reader.data}
    sizes = {witnesses.value(size): size for size in reader.all_sizes() if size.constant is None}
    numbers = {
        dim for value in _values(main) if isinstance(value.type, ir.RankedTensorType) for dim in value.type.shape
    }
    symbols, solved = _places(shapes, {*sizes.values(), *scalars.values()})
    inputs = {
        index: tuple(size if size.constant is None else size.constant for size in shape)
        for index, shape in shapes.items()
    }
    decoder = Decoder(sizes, numbers - sizes.keys())
    return Specialized(module, sizes, scalars, inputs, symbols, solved, reader.equations.assumed, witnesses, decoder)


def _places(shapes: Mapping[int, Shape], used: set[Expr]) -> tuple[dict[str, list[Place]], dict[str, Expr]]:
    """Where each symbol can be read off the inputs; what is no dimension itself is solved for.

    Raises: ZenithError for a symbol that the shapes of the inputs do not tell.
    """
    places: dict[str, list[Place]] = {}
    compound: dict[Place, Expr] = {}
    for index, shape in shapes.items():
        for axis, size in enumerate(shape):
            if size.plain is not None:
                places.setdefault(size.plain, []).append((index, axis))
            elif size.constant is None:
                compound[index, axis] = size
    solved: dict[str, Expr] = {}
    wanted = {name for size in used for name in size.symbols}
    while unknown := wanted - places.keys() - solved.keys():
        found = next(_solvable(compound, unknown), None)
        if found is None:
            what = ", ".join(f"{size} (argument {i}, axis {axis})" for (i, axis), size in compound.items()) or "none"
            raise ZenithError(
                f"the sizes {', '.join(sorted(unknown))} cannot be computed from the shapes of the inputs; a "
                f"dimension of an input that is linear in one unknown size is expected for each, and there are {what}"
            )
        name, place, value = found
        solved[name] = value
        places[f"arg{place[0]}_dim{place[1]}"] = [place]
    return {name: places.get(name, []) for name in sorted(wanted | places.keys())}, solved


def _solvable(compound: Mapping[Place, Expr], unknown: set[str]) -> Iterator[tuple[str, Place, Expr]]:
    """(symbol, place, value over known symbols) for dimensions k * symbol + rest."""
    for place, size in compound.items():
        names = size.symbols & unknown
        if len(names) != 1:
            continue
        (name,) = names
        symbol = Expr.symbol(name)
        factor = next((count for monomial, count in size.terms if Expr(((monomial, 1),)) == symbol), 0)
        rest = size - factor * symbol
        if factor and name not in rest.symbols:
            dimension = Expr.symbol(f"arg{place[0]}_dim{place[1]}")
            yield name, place, floordiv(dimension - rest, Expr.number(factor))
