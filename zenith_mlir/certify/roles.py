"""What the arguments of a program are for, read off how it uses them, so that random ones make sense.

A token id must be a row of its table, a variance positive, a weight matrix scaled so that activations stay of
order one. Nothing in a StableHLO type says so; the operations that an argument reaches do. Each question is
asked backwards, from the operation that knows (a gather, a dot_general, a square root) to the arguments that
feed it, through calls and loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from zenith_mlir.certify.flow import ARITHMETIC, INDEXING, MOVES, POSITIVE, Flow, is_number, scaled_by_a_number
from zenith_mlir.certify.judge import is_float_like
from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import defining_op, int_list, shape, walk
from zenith_mlir.ir.inline import inline_all_calls

if TYPE_CHECKING:
    from zenith_mlir.module import InputSpec, Module

__all__ = ["Role", "argument_roles", "draw"]


@dataclass
class Role:
    """One argument of `main`.

    For integers: values lie in [low, bound), where the program says so (None: it does not). For floats:
    `fan_in` is how many products a contraction with it sums (0: it is in none, 1: both sides of a batched one
    are activations), `factor` says that it enters a contraction through arithmetic, or a sum of two products,
    `gain` that it multiplies elementwise, `moment` that it only decays by constant factors (optimizer state),
    `positive` that a root or logarithm is taken of it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    low: int = 0
    bound: int | None = None
    fan_in: int = 0
    factor: bool = False
    gain: bool = False
    moment: bool = False
    positive: bool = False


def argument_roles(module: Module) -> list[Role]:
    """The role of each argument of `main`, in order.

    Raises:
      ZenithError: an argument's shape is known only when called.
    """
    with module.context:
        roles = [_role(number, spec) for number, spec in enumerate(module.input_specs)]
        # A helper such as @_take serves many tables: inlined, each call tells what its own table says.
        inlined = module.clone().operation
        inline_all_calls(inlined)
        flow = Flow(inlined)
        for op in walk(inlined):
            if learn := _TEACHERS.get(op.name):
                learn(op, flow, roles)
        for number, argument in enumerate(flow.main_arguments):
            roles[number].moment = _only_decays(argument)
        return roles


def _role(number: int, spec: InputSpec) -> Role:
    static = tuple(extent for extent in spec.shape if extent is not None)
    if len(static) != len(spec.shape):
        raise ZenithError(
            f"argument {number} has the shape {spec.shape}, which is known only when called; "
            "trace the function again with concrete shapes"
        )
    return Role(static, np.dtype(spec.dtype))


def draw(roles: Sequence[Role], seed: int = 0, masks: str = "random") -> list[NDArray[Any]]:
    """One array for each role; the same seed gives the same arrays.

    Integers and booleans that nothing bounds are taken for masks: mostly 1, or all 1 with `masks="ones"`.
    """
    return [_draw(role, np.random.default_rng([seed, number]), masks) for number, role in enumerate(roles)]


def _draw(role: Role, rng: np.random.Generator, masks: str) -> NDArray[Any]:
    if is_float_like(role.dtype):
        return _draw_float(role, rng)
    if role.bound is not None and role.dtype != bool:
        low = min(role.low, role.bound - 1)
        return rng.integers(low, max(role.bound, low + 1), role.shape).astype(role.dtype)
    if role.dtype.kind == "u" and (role.dtype.itemsize == 1 or role.shape[-1:] == (2,)):
        # Pixels, or the two words of a random key.
        return rng.integers(0, np.iinfo(role.dtype).max, role.shape, role.dtype, endpoint=True)
    return _draw_mask(role, rng, masks).astype(role.dtype)


def _draw_mask(role: Role, rng: np.random.Generator, masks: str) -> NDArray[Any]:
    mask = np.asarray(rng.random(role.shape) < 0.85) if masks == "random" else np.ones(role.shape)
    if role.shape:
        # Under a causal mask the first row sees nothing but the first column. Hidden by an added -1e9, it
        # would be rounding noise in float32 and numbers in float64, and the whole program with it.
        mask[..., :1] = True
    return mask


def _draw_float(role: Role, rng: np.random.Generator) -> NDArray[Any]:
    normal = np.asarray(rng.standard_normal(role.shape))
    if role.moment:
        values = 1e-3 * normal
        values = values**2 if role.positive else values
    elif role.positive or not role.shape:
        values = np.asarray(rng.uniform(0.5, 1.5, role.shape) if role.shape else rng.uniform(0.1, 1.0))
    elif role.fan_in:
        values = normal / math.sqrt(role.fan_in)
    elif role.gain:
        values = 1 + 0.1 * normal
    else:
        values = 0.02 * normal if len(role.shape) < 2 else normal / math.sqrt(role.shape[-1])
    if role.dtype.kind == "c":
        values = values + 1j * 0.02 * rng.standard_normal(role.shape)
    return np.asarray(values).astype(role.dtype)


def _integer(op: ir.Operation, attribute: str) -> int:
    return int(ir.IntegerAttr(op.attributes[attribute]).value)


def _bound(roles: list[Role], numbers: set[int], bound: int, low: int = 0) -> None:
    for role in (roles[number] for number in numbers):
        if not is_float_like(role.dtype):
            role.bound = max(1, bound if role.bound is None else min(bound, role.bound))
            role.low = max(low, role.low)


def _from_gather(op: ir.Operation, flow: Flow, roles: list[Role]) -> None:
    from jaxlib.mlir.dialects import stablehlo

    numbers = stablehlo.GatherDimensionNumbers(op.attributes["dimension_numbers"])
    sizes = int_list(op, "slice_sizes")
    bounds = [shape(op.operands[0])[dim] - sizes[dim] + 1 for dim in numbers.start_index_map]
    _from_indices(op.operands[1], numbers.index_vector_dim, bounds, flow, roles)


def _from_scatter(op: ir.Operation, flow: Flow, roles: list[Role]) -> None:
    from jaxlib.mlir.dialects import stablehlo

    numbers = stablehlo.ScatterDimensionNumbers(op.attributes["scatter_dimension_numbers"])
    bounds = [shape(op.operands[0])[dim] for dim in numbers.scattered_dims_to_operand_dims]
    _from_indices(op.operands[len(op.results)], numbers.index_vector_dim, bounds, flow, roles)


def _from_indices(indices: ir.Value, vector_dim: int, bounds: list[int], flow: Flow, roles: list[Role]) -> None:
    """Index vectors along `vector_dim`; usually their components were concatenated one by one."""
    op = defining_op(indices)
    components = [indices]
    if op is not None and op.name == "stablehlo.concatenate" and _integer(op, "dimension") == vector_dim:
        components = list(op.operands)
    if len(components) != len(bounds):
        components, bounds = [indices], [min(bounds, default=1)]
    for component, bound in zip(components, bounds, strict=True):
        _bound(roles, flow.arguments(component, INDEXING), bound)


def _from_dynamic_slice(op: ir.Operation, flow: Flow, roles: list[Role]) -> None:
    first = 1 if op.name == "stablehlo.dynamic_slice" else 2
    inner = int_list(op, "slice_sizes") if first == 1 else shape(op.operands[1])
    for start, outer, size in zip(list(op.operands)[first:], shape(op.operands[0]), inner, strict=True):
        _bound(roles, flow.arguments(start, INDEXING), outer - size + 1)


def _from_compare(op: ir.Operation, flow: Flow, roles: list[Role]) -> None:
    """Compared with an iota: a class number (one-hot), a position or a length."""
    for value, other in (tuple(op.operands), tuple(op.operands)[::-1]):
        extent = _iota_extent(other)
        if extent is not None:
            equal = str(op.attributes["comparison_direction"]).split()[-1].rstrip(">") in ("EQ", "NE")
            _bound(roles, flow.arguments(value, INDEXING), extent, low=0 if equal else 1)


def _iota_extent(value: ir.Value) -> int | None:
    """How many different numbers an iota counts, looking through what only moves them."""
    op = defining_op(value)
    while op is not None and MOVES.get(op.name) == (0,):
        op = defining_op(op.operands[0])
    if op is None or op.name != "stablehlo.iota":
        return None
    return shape(op.results[0])[_integer(op, "iota_dimension")]


def _from_dot(op: ir.Operation, flow: Flow, roles: list[Role]) -> None:
    dims = DotDims.of(op)
    batched = bool(dims.lhs_batch)
    for value, contracting in (
        (op.operands[0], dims.lhs_contracting),
        (op.operands[1], dims.rhs_contracting),
    ):
        fan_in = 1 if batched else math.prod(shape(value)[dim] for dim in contracting)
        _contracted(roles, flow.arguments(value, MOVES), fan_in)
        for number in flow.arguments(value, ARITHMETIC):
            roles[number].factor = True


def _from_convolution(op: ir.Operation, flow: Flow, roles: list[Role]) -> None:
    from jaxlib.mlir.dialects import stablehlo

    kernel = op.operands[1]
    numbers = stablehlo.ConvDimensionNumbers(op.attributes["dimension_numbers"])
    fan_in = math.prod(shape(kernel)) // max(1, shape(kernel)[numbers.kernel_output_feature_dimension])
    _contracted(roles, flow.arguments(kernel, MOVES), fan_in)
    _contracted(roles, flow.arguments(op.operands[0], MOVES), 1)


def _contracted(roles: list[Role], numbers: set[int], fan_in: int) -> None:
    for number in numbers:
        roles[number].fan_in = max(fan_in, roles[number].fan_in)


def _from_multiply(op: ir.Operation, flow: Flow, roles: list[Role]) -> None:
    lhs, rhs = op.operands
    if not is_number(lhs) and not is_number(rhs):
        for value in (lhs, rhs):
            for number in flow.arguments(value, MOVES):
                roles[number].gain = True


def _from_sum(op: ir.Operation, flow: Flow, roles: list[Role]) -> None:
    """A sum of two products with the same argument contracts it, too: x cos + rotated(x) sin."""
    products = [_product(operand) for operand in op.operands]
    if all(product is not None for product in products):
        left, right = (
            set().union(*(flow.arguments(factor, _TURNS) for factor in product.operands))
            for product in products
            if product is not None
        )
        for number in left & right:
            roles[number].factor = True


_TURNS = MOVES | {"stablehlo.negate": (0,)}


def _product(value: ir.Value) -> ir.Operation | None:
    op = defining_op(value)
    while op is not None and _TURNS.get(op.name) == (0,):
        op = defining_op(op.operands[0])
    return op if op is not None and op.name == "stablehlo.multiply" else None


def _from_root(op: ir.Operation, flow: Flow, roles: list[Role]) -> None:
    for number in flow.arguments(op.operands[0], POSITIVE):
        roles[number].positive = True


def _only_decays(argument: ir.Value) -> bool:
    users = [use.owner.operation for use in argument.uses]
    return bool(users) and all(op.name == "stablehlo.multiply" and any(scaled_by_a_number(op)) for op in users)


_TEACHERS: dict[str, Callable[[ir.Operation, Flow, list[Role]], None]] = {
    "stablehlo.add": _from_sum,
    "stablehlo.compare": _from_compare,
    "stablehlo.convolution": _from_convolution,
    "stablehlo.dot_general": _from_dot,
    "stablehlo.dynamic_slice": _from_dynamic_slice,
    "stablehlo.dynamic_update_slice": _from_dynamic_slice,
    "stablehlo.gather": _from_gather,
    "stablehlo.log": _from_root,
    "stablehlo.multiply": _from_multiply,
    "stablehlo.rsqrt": _from_root,
    "stablehlo.scatter": _from_scatter,
    "stablehlo.sqrt": _from_root,
    "stablehlo.subtract": _from_sum,
}
