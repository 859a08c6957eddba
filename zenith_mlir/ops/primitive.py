"""How a zenith op becomes a JAX primitive: what JAX is told of it, once for all of them.

An `Operation` names the composite, its formula and its attributes. `define` makes a primitive of it whose parameter is
the op's spec:

    types     those of the formula, traced: so shardings and the axes of shard_map come out as for plain JAX
    lowering  a `stablehlo.composite` with the dialect's attributes, whose decomposition is the formula
    vmap      the same op with one axis more, where `batched` knows how, or else the formula under vmap
    jvp       with a `Gradient`: the forward that keeps what the gradient needs, and a second primitive for the
              tangents. It is linear in them: evaluated, it is the jvp of the formula; transposed, it is what `pull`
              says, an op `zenith.*_vjp`. So forward mode and reverse mode both work, in any order: all further
              derivatives are those of formulas.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.extend.core import Primitive
from jax.extend.source_info_util import register_exclusion
from jax.interpreters import ad, batching, mlir

if TYPE_CHECKING:
    from jaxlib.mlir import ir

# Frames of this folder are not the user's: JAX leaves them out of source locations.
register_exclusion(str(Path(__file__).parent))

Arrays = tuple[Any, ...]
Dims = Sequence[int | None]
# A spec, operands and the dimension of each that vmap maps (None: it does not) give the spec with the axis, operands
# that have it where that says, and its dimension in each result; None where the op cannot have the axis.
Batched = Callable[[Any, Sequence[Any], Dims], tuple[Any, list[Any], list[int]] | None]


@dataclass(frozen=True)
class Gradient:
    """The reverse mode of an op.

    Attributes:
      keep: the spec of the forward whose results are all that the gradient needs.
      results: how many of the results are differentiated; those that are only kept come after.
      pull: from the spec, the operands, all results, the cotangents and the numbers of the operands wanted, the
        gradient of each of these.
    """

    keep: Callable[[Any], Any]
    results: Callable[[Any], int]
    pull: Callable[[Any, Sequence[Any], Sequence[Any], Sequence[Any], Sequence[int]], Sequence[Any]]


@dataclass(frozen=True)
class Operation:
    """What JAX is told of a zenith op. `formula` takes the spec and the operands and returns a tuple."""

    name: str
    formula: Callable[..., Arrays]
    attributes: Callable[[Any], dict[str, ir.Attribute]]
    batched: Batched
    gradient: Gradient | None = None


def define(op: Operation) -> Primitive:
    """The primitive of `op`."""
    primitive = _primitive(op.name, op.formula)
    mlir.register_lowering(primitive, functools.partial(_lower, op))
    batching.primitive_batchers[primitive] = functools.partial(_batch, op, primitive)
    if op.gradient is None:
        ad.primitive_jvps[primitive] = functools.partial(_jvp_of_formula, op, primitive)
    else:
        tangent = _define_tangent(op, op.gradient)
        ad.primitive_jvps[primitive] = functools.partial(_jvp, op.gradient, primitive, tangent)
    return primitive


def bind(primitive: Primitive, spec: Any, *operands: Any) -> list[jax.Array]:
    """The results of the op. Operands that vary over fewer axes of a shard_map than others are made to vary."""
    everywhere = frozenset[str]().union(*(_varying(operand) for operand in operands))
    results: list[jax.Array] = primitive.bind(*(_vary(operand, everywhere) for operand in operands), spec=spec)
    return results


def _varying(operand: Any) -> frozenset[str]:
    return frozenset(jax.typeof(operand).manual_axis_type.varying)


def _vary(operand: Any, axes: frozenset[str]) -> Any:
    missing = tuple(sorted(axes - _varying(operand)))
    return jax.lax.pcast(operand, missing, to="varying") if missing else operand


# ---- Evaluation, types, lowering ----


def _primitive(name: str, formula: Callable[..., Arrays]) -> Primitive:
    """A primitive that computes `formula`; its parameters are the formula's keywords."""
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(functools.partial(_evaluate, primitive, formula))
    primitive.def_abstract_eval(functools.partial(_types, formula))
    return primitive


def _evaluate(primitive: Primitive, formula: Callable[..., Arrays], *operands: Any, **params: Any) -> Arrays:
    """Outside of jit: a program of one operation, so that a pipeline sees it."""
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        return formula(*operands, **params)
    return tuple(_one_operation(*operands, primitive=primitive, params=tuple(params.items())))


@functools.partial(jax.jit, static_argnames=("primitive", "params"))
def _one_operation(*operands: Any, primitive: Primitive, params: tuple[tuple[str, Any], ...]) -> Any:
    return primitive.bind(*operands, **dict(params))


def _types(formula: Callable[..., Arrays], *operands: Any, **params: Any) -> Sequence[Any]:
    types: Sequence[Any] = _jitted(formula, tuple(params.items())).trace(*operands).jaxpr.out_avals
    return types


@functools.lru_cache(maxsize=1024)
def _jitted(formula: Callable[..., Arrays], params: tuple[tuple[str, Any], ...]) -> Any:
    """`formula` with its parameters, whose traces JAX keeps."""
    return jax.jit(functools.partial(formula, **dict(params)))


def _lower(op: Operation, ctx: mlir.LoweringRuleContext, *operands: Any, spec: Any) -> Any:
    formula = functools.partial(op.formula, spec=spec)
    avals: Sequence[Any] = ctx.avals_in
    if any(not isinstance(size, int) for aval in avals for size in aval.shape):
        return mlir.lower_fun(formula)(ctx, *operands)  # the attributes have no word for a symbolic size
    results = mlir.lower_fun(jax.lax.composite(formula, op.name, version=1))(ctx, *operands)
    composite = results[0].owner
    attributes = type(composite.attributes["composite_attributes"]).get(op.attributes(spec))
    composite.attributes["composite_attributes"] = attributes
    return results


# ---- vmap ----


def _batch(op: Operation, primitive: Primitive, operands: Arrays, dims: Dims, *, spec: Any) -> tuple[Any, Any]:
    found = op.batched(spec, operands, dims)
    if found is None:
        return _batch_formula(op.formula, operands, dims, spec=spec)
    wider, moved, out = found
    return bind(primitive, wider, *moved), out


def _batch_formula(formula: Callable[..., Arrays], operands: Arrays, dims: Dims, **params: Any) -> tuple[Any, Any]:
    results = jax.vmap(functools.partial(formula, **params), in_axes=tuple(dims))(*operands)
    return results, [0] * len(results)


# ---- Derivatives ----


def _jvp_of_formula(op: Operation, primitive: Primitive, primals: Any, tangents: Any, *, spec: Any) -> Any:
    results = primitive.bind(*primals, spec=spec)
    return results, directional(functools.partial(op.formula, spec=spec), primals, tangents)[1]


def _jvp(
    gradient: Gradient, primitive: Primitive, tangent: Primitive, primals: Any, tangents: Any, *, spec: Any
) -> Any:
    kept = gradient.keep(spec)
    results = primitive.bind(*primals, spec=kept)
    moving = tuple(i for i, t in enumerate(tangents) if type(t) is not ad.Zero)
    directions = [tangents[i] for i in moving]
    out = tangent.bind(*primals, *results, *directions, spec=kept, moving=moving, arity=len(primals))
    # What is only kept is a function of the operands, and what reads it knows it as that.
    wanted = len(results) if kept == spec else gradient.results(spec)
    still = [ad.Zero(jax.typeof(result).to_tangent_aval()) for result in results[len(out) :]]
    return results[:wanted], [*out, *still][:wanted]


def directional(
    function: Callable[..., Arrays], primals: Sequence[Any], tangents: Sequence[Any]
) -> tuple[Arrays, Arrays]:
    """`function` and its derivative along `tangents`, of which some are ad.Zero: it is not differentiated by these."""
    moving = [i for i, t in enumerate(tangents) if type(t) is not ad.Zero]

    def of_moving(*moved: Any) -> Arrays:
        values = dict(zip(moving, moved, strict=True))
        return function(*(values.get(i, primal) for i, primal in enumerate(primals)))

    results: tuple[Arrays, Arrays] = jax.jvp(of_moving, [primals[i] for i in moving], [tangents[i] for i in moving])
    return results


def _define_tangent(op: Operation, gradient: Gradient) -> Primitive:
    """The tangents of an op's results: of its operands, its results and the tangents of the operands `moving`, in which
    it is linear.
    """

    def formula(*values: Any, spec: Any, moving: tuple[int, ...], arity: int) -> Arrays:
        primals, _, directions = split(values, moving, arity)
        tangents: list[Any] = [ad.Zero(jax.typeof(primal).to_tangent_aval()) for primal in primals]
        for i, direction in zip(moving, directions, strict=True):
            tangents[i] = direction
        _, found = directional(functools.partial(op.formula, spec=spec), primals, tangents)
        return found[: gradient.results(spec)]

    def split(values: Sequence[Any], moving: tuple[int, ...], arity: int) -> tuple[Any, Any, Any]:
        end = len(values) - len(moving)
        return values[:arity], values[arity:end], values[end:]

    tangent = _primitive(f"{op.name}_jvp", formula)
    mlir.register_lowering(tangent, mlir.lower_fun(formula))
    batching.primitive_batchers[tangent] = functools.partial(_batch_formula, formula)

    def jvp(primals: Any, tangents: Any, **params: Any) -> Any:
        """By its directions it is linear; by the rest it is differentiated as a formula."""
        fixed = len(primals) - len(params["moving"])
        turns = tangents[fixed:]
        parts = []
        if any(type(turn) is not ad.Zero for turn in turns):
            parts.append(tangent.bind(*primals[:fixed], *map(ad.instantiate_zeros, turns), **params))
        if any(type(t) is not ad.Zero for t in tangents[:fixed]):
            still = [ad.Zero(turn.aval if type(turn) is ad.Zero else jax.typeof(turn)) for turn in turns]
            parts.append(directional(functools.partial(formula, **params), primals, [*tangents[:fixed], *still])[1])
        return tangent.bind(*primals, **params), [
            functools.reduce(ad.add_jaxvals, part) for part in zip(*parts, strict=True)
        ]

    def transpose(cotangents: Any, *values: Any, spec: Any, moving: tuple[int, ...], arity: int) -> Any:
        primals, results, directions = split(values, moving, arity)
        unknown = [ad.is_undefined_primal(direction) for direction in directions]
        wanted = [i for i, is_unknown in zip(moving, unknown, strict=True) if is_unknown]
        found = iter(gradient.pull(spec, primals, results, [*map(ad.instantiate_zeros, cotangents)], wanted))
        return [None] * (len(values) - len(moving)) + [next(found) if is_unknown else None for is_unknown in unknown]

    ad.primitive_jvps[tangent] = jvp
    ad.primitive_transposes[tangent] = transpose
    return tangent
