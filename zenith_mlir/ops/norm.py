"""What `layer_norm` and `rms_norm` have in common."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

from jax.extend.core import Primitive

from zenith_mlir.dialects import norm as dialect
from zenith_mlir.dialects.norm import NormSpec, NormVjpSpec
from zenith_mlir.ops.arguments import check, check_shape, floating, present
from zenith_mlir.ops.batching import rows
from zenith_mlir.ops.primitive import Gradient, Operation, bind, define

_BY_ROW = ("x", "residual", "s", "cotangent", "sum_cotangent", "out", "sum", "dx")


def _formula(*operands: Any, spec: NormSpec) -> tuple[Any, ...]:
    results = dialect.reference(spec, *operands)
    return results if spec.residual else (results,)


def _formula_vjp(*operands: Any, spec: NormVjpSpec) -> tuple[Any, ...]:
    return tuple(dialect.reference_vjp(spec, *operands))


def _by_row(spec: NormSpec, operands: int) -> tuple[Sequence[bool], Sequence[bool]]:
    return [name in _BY_ROW for name in spec.operand_names], [name in _BY_ROW for name in spec.result_names]


def define_norm(spec: type[NormSpec], vjp_spec: type[NormVjpSpec]) -> Primitive:
    """The primitive of the norm that has these specs."""
    batched = rows(_by_row)
    vjp = define(Operation(vjp_spec.OP, _formula_vjp, vjp_spec.to_attributes, batched))

    def pull(
        spec: NormSpec,
        operands: Sequence[Any],
        results: Sequence[Any],
        cotangents: Sequence[Any],
        wanted: Sequence[int],
    ) -> list[Any]:
        given = dict(zip(spec.operand_names, operands, strict=True))
        names = [spec.operand_names[i] for i in wanted]
        s, of_sum = (results[1], cotangents[1:]) if spec.residual else (given["x"], [])
        asked = vjp_spec(
            **dataclasses.asdict(spec),
            sum_cotangent=spec.residual,
            dweight="weight" in names,
            dbias="bias" in names,
        )
        weight = [given["weight"]] if spec.weight else []
        dx, *rest = bind(vjp, asked, s, *weight, cotangents[0], *of_sum)
        found = dict(zip(("dx", *asked.result_names[1:]), (dx, *rest), strict=True))
        return [found.get(f"d{name}", dx).astype(given[name].dtype) for name in names]

    gradient = Gradient(keep=lambda spec: spec, results=lambda spec: len(spec.result_names), pull=pull)
    return define(Operation(spec.OP, _formula, spec.to_attributes, batched, gradient))


def normalise(
    primitive: Primitive,
    spec: type[NormSpec],
    x: Any,
    weight: Any,
    bias: Any,
    *,
    residual: Any,
    axis: int | Sequence[int],
    epsilon: float,
    offset: float,
) -> Any:
    """Check the arguments of a norm and bind `primitive`."""
    op = spec.OP.removeprefix("zenith.")
    (x,) = floating(op, x=x)
    axes = _trailing(op, axis, x.ndim)
    normalised = x.shape[x.ndim - axes :]
    operands = [x]
    for name, value, shape, why in (
        ("residual", residual, x.shape, "that of x"),
        ("weight", weight, normalised, f"that of the normalised axes of x, which has {list(x.shape)}"),
        ("bias", bias, normalised, f"that of the normalised axes of x, which has {list(x.shape)}"),
    ):
        for array in present(op, **{name: value}):
            check_shape(op, name, array, shape, why)
            operands.append(array)
    check(op, weight is not None or offset == 0, f"offset is {offset} and there is no weight to add it to")
    facts = spec(
        epsilon=float(epsilon),
        axes=axes,
        weight=weight is not None,
        bias=bias is not None,
        residual=residual is not None,
        offset=float(offset),
    )
    results = bind(primitive, facts, *operands)
    return results[0] if residual is None else tuple(results)


def _trailing(op: str, axis: int | Sequence[int], ndim: int) -> int:
    """How many trailing axes `axis` names."""
    asked = [axis] if isinstance(axis, int) else [operator.index(a) for a in axis]
    found = sorted(a + ndim if a < 0 else a for a in asked)
    check(
        op,
        0 < len(found) <= ndim and found == list(range(ndim - len(found), ndim)),
        f"axis is {axis}, expected the last axis or several up to the last of the {ndim} of x; move them to the end "
        "with jnp.moveaxis",
    )
    return len(found)
