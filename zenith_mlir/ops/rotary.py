"""`rotary`, the op zenith.rotary."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from zenith_mlir.dialects import rotary as dialect
from zenith_mlir.dialects import rotary_vjp as dialect_vjp
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.dialects.rotary import RotarySpec
from zenith_mlir.ops.arguments import check, check_shape, floating
from zenith_mlir.ops.batching import before, fresh, moved, size_of, widened
from zenith_mlir.ops.primitive import Dims, Gradient, Operation, bind, define


def _formula(x: Any, cos: Any, sin: Any, *, spec: RotarySpec) -> tuple[Any]:
    return (dialect.reference(spec, x, cos, sin),)


def _formula_vjp(cotangent: Any, cos: Any, sin: Any, *, spec: RotarySpec) -> tuple[Any]:
    return (dialect_vjp.reference(spec, cotangent, cos, sin),)


def _batched(spec: RotarySpec, operands: Sequence[Any], dims: Dims) -> tuple[Any, list[Any], list[int]]:
    """x always gets the axis, the tables where one of them has it."""
    size, name = size_of(operands, dims), fresh(spec.axes)
    of_table = dims[1] is not None or dims[2] is not None
    wider = dataclasses.replace(
        spec,
        axes=widened(spec.axes, name, size),
        x=before(name, spec.x),
        table=before(name, spec.table, of_table),
    )
    gets = (True, of_table, of_table)
    arranged = [moved(x, dim, size) if get else x for x, dim, get in zip(operands, dims, gets, strict=True)]
    return wider, arranged, [0]


def _pull(
    spec: RotarySpec, operands: Sequence[Any], results: Sequence[Any], cotangents: Sequence[Any], wanted: Sequence[int]
) -> list[Any]:
    """That of x is an op; tables are constants nearly always, so theirs are what JAX makes of the formula."""
    x, cos, sin = operands
    of_tables = [i for i in wanted if i > 0]
    found = {}
    if 0 in wanted:
        (dx,) = bind(_vjp_p, spec, cotangents[0], cos, sin)
        found[0] = dx.astype(x.dtype)
    if of_tables:
        _, pullback = jax.vjp(lambda cos, sin: dialect.reference(spec, x, cos, sin), cos, sin)
        found |= dict(enumerate(pullback(cotangents[0]), 1))
    return [found[i] for i in wanted]


_vjp_p = define(Operation(dialect_vjp.NAME, _formula_vjp, RotarySpec.to_attributes, _batched))
_gradient = Gradient(keep=lambda spec: spec, results=lambda spec: 1, pull=_pull)
rotary_p = define(Operation(dialect.NAME, _formula, RotarySpec.to_attributes, _batched, _gradient))


def rotary(
    x: ArrayLike, cos: ArrayLike, sin: ArrayLike, *, interleaved: bool = False, rotated: int | None = None
) -> jax.Array:
    r"""Rotary position embedding: pairs (a, b) of features are turned by angles with the given cosines and sines.

    .. math::
      out_a = x_a \cos_a - x_b \sin_a \qquad out_b = x_b \cos_b + x_a \sin_b

    Arithmetic is float32 at least, and the result is rounded to the dtype of x once.

    Args:
      x: floating-point array of shape [..., d].
      cos, sin: tables of one shape whose last axis has a column a pair (`rotated` / 2) or a column a feature
        (`rotated`), and whose other axes broadcast to those of x: for x of shape [B, T, N, d] and tables [T, r] pass
        ``cos[:, None]``, for tables [B, T, r] of gathered positions ``cos[:, :, None]``.
      interleaved: pairs are neighbours (2i, 2i + 1) instead of halves (i, i + rotated / 2).
      rotated: how many features are turned, the first ones; the rest is copied. None is all d.

    Returns: an array of the shape and dtype of x.

    Raises:
      TypeError: if an argument is not of floating-point numbers.
      ValueError: if shapes do not fit.
    """
    op = "rotary"
    x, cos, sin = floating(op, x=x, cos=cos, sin=sin)
    check(op, x.ndim > 0, "x is a scalar, expected features along its last axis")
    check_shape(op, "sin", sin, cos.shape, "that of cos")
    count = x.shape[-1] if rotated is None else rotated
    check(
        op,
        count % 2 == 0 and 0 <= count <= x.shape[-1],
        f"{count} features are to be rotated, expected an even number up to the {x.shape[-1]} of x; "
        "say how many with rotated",
    )
    check(
        op,
        cos.ndim > 0 and cos.shape[-1] in (count, count // 2),
        f"cos has shape {list(cos.shape)}, expected {count} or {count // 2} columns for {count} rotated features; "
        "say how many with rotated",
    )
    names = _names(x.ndim - 1)
    table = _table(cos.shape[:-1], x.shape[:-1], names)
    axes = dict(zip((*names, "d", "r"), (*x.shape, cos.shape[-1]), strict=True))
    spec = RotarySpec(
        axes=dict(sorted(axes.items())),
        x=Layout(tuple((name,) for name in (*names, "d"))),
        table=Layout((*table, ("r",))),
        rotated=count,
        pairing="interleaved" if interleaved else "half",
    )
    dtype = jnp.promote_types(cos.dtype, sin.dtype)
    (out,) = bind(rotary_p, spec, x, cos.astype(dtype), sin.astype(dtype))
    return out


def _names(count: int) -> tuple[str, ...]:
    """b t h of [B, T, N, d]; more axes come before."""
    usual = ("b", "t", "h") if count >= 3 else ("t", "h")
    return (*(f"b{i}" for i in range(1, count - len(usual) + 1)), *usual[max(0, len(usual) - count) :])


def _table(shape: Sequence[int], to: Sequence[int], names: Sequence[str]) -> list[tuple[str, ...]]:
    """The layout of a table of this shape, which broadcasts to the leading axes of x."""
    wide = to[max(0, len(to) - len(shape)) :]
    fits = len(shape) <= len(to) and all(size in (1, of_x) for size, of_x in zip(shape, wide, strict=True))
    check(
        "rotary",
        fits,
        f"cos and sin have rows {list(shape)}, expected ones that broadcast to those of x, {list(to)}; "
        "insert axes of size one with cos[:, None]",
    )
    own = names[len(names) - len(shape) :]
    return [() if size == 1 else (name,) for size, name in zip(shape, own, strict=True)]
