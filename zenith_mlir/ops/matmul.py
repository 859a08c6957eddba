"""`matmul`, the op zenith.matmul.

The bare product is bilinear, and its derivatives are such products again: the primitive needs no formula for them. With
biases and residuals behind it, it stays one operation when it is differentiated. With an activation it is taken apart:
the product becomes an operation of its own whose result, in the result's dtype, is kept for the backward.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad
from jax.typing import ArrayLike, DTypeLike

from zenith_mlir.dialects import matmul as dialect
from zenith_mlir.dialects.labelled import einsum, spread
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.dialects.matmul import MatmulSpec, Step
from zenith_mlir.ops.arguments import check, check_choice, floating, present
from zenith_mlir.ops.batching import before, moved, size_of, widened
from zenith_mlir.ops.matmul_layouts import added_layout, bare_spec
from zenith_mlir.ops.primitive import Dims, Operation, bind, define, directional

if TYPE_CHECKING:
    from jaxlib.mlir import ir

ACTIVATIONS = ("relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh")


@dataclass(frozen=True)
class Product:
    """A product and the dtype of its result; over which axes of a mesh each axis of a bare product's result is split,
    where these are explicit and the operands do not decide it.
    """

    spec: MatmulSpec
    dtype: np.dtype
    partition: tuple[tuple[str, Any], ...] | None = None

    @property
    def is_bare(self) -> bool:
        """Nothing follows the product."""
        return not self.spec.steps

    def attributes(self) -> dict[str, ir.Attribute]:
        return self.spec.attributes()

    def bare(self) -> Product:
        """The product without what follows."""
        return Product(replace(self.spec, modifiers=(), steps=(), sources=()), self.dtype)


def _formula(*operands: Any, spec: Product) -> tuple[Any]:
    if spec.partition is None:
        return (dialect.reference(spec.spec, *operands, out_dtype=spec.dtype, exact=False),)
    bare, (lhs, rhs) = spec.spec, operands
    sums = jnp.promote_types(jnp.promote_types(lhs.dtype, rhs.dtype), jnp.float32)
    pair = [(lhs, bare.lhs), (rhs, bare.rhs)]
    x = einsum(pair, bare.axes, bare.out.axes, sums, exact=False, partition=dict(spec.partition))
    return (x.reshape(bare.out.shape(bare.axes)).astype(spec.dtype),)


def _batched(product: Product, operands: Sequence[Any], dims: Dims) -> tuple[Any, list[Any], list[int]]:
    """The axis is in front of what has it, and in the result always: so of the left operand, if of neither."""
    spec, size = product.spec, size_of(operands, dims)
    has = [dim is not None for dim in dims]
    has[0] |= not has[1]
    kind = "p" if has[0] and has[1] else "m" if has[0] else "n"
    name = next(f"{kind}{i}" for i in range(len(spec.axes) + 1) if f"{kind}{i}" not in spec.axes)
    wider = replace(
        spec,
        axes=widened(spec.axes, name, size),
        lhs=before(name, spec.lhs, has[0]),
        rhs=before(name, spec.rhs, has[1]),
        out=before(name, spec.out),
        modifiers=tuple(before(name, layout, of) for layout, of in zip(spec.modifiers, has[2:], strict=True)),
    )
    arranged = [moved(x, dim, size) if of else x for x, dim, of in zip(operands, dims, has, strict=True)]
    return replace(product, spec=wider), arranged, [0]


matmul_p = define(Operation(dialect.NAME, _formula, Product.attributes, _batched))


# ---- Derivatives ----


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, spec: Product) -> tuple[Any, Any]:
    if any(step.kind != "add" for step in spec.spec.steps):
        return _jvp_of_parts(primals, tangents, spec)
    parts = []
    bare = spec.bare()
    for i in (0, 1):
        if type(tangents[i]) is not ad.Zero:
            pair = [tangents[i], primals[1]] if i == 0 else [primals[0], tangents[1]]
            parts += bind(matmul_p, bare, *pair)
    for step in spec.spec.steps:
        assert step.operand is not None
        if type(tangents[step.operand]) is not ad.Zero:
            parts.append(_added(spec, step.operand, tangents[step.operand]))
    return bind(matmul_p, spec, *primals), [functools.reduce(jnp.add, parts)]


def _jvp_of_parts(primals: Sequence[Any], tangents: Sequence[Any], spec: Product) -> tuple[Any, Any]:
    """Of the product and, as formulas, what follows it."""

    def apart(lhs: Any, rhs: Any, *modifiers: Any) -> tuple[Any]:
        (x,) = bind(matmul_p, spec.bare(), lhs, rhs)
        return (dialect.follow(spec.spec, x, modifiers).astype(spec.dtype),)

    return directional(apart, primals, tangents)


def _added(product: Product, operand: int, value: Any) -> Any:
    """A modifier as it is added to the result."""
    spec = product.spec
    wide = spread(value, spec.modifiers[operand - 2], spec.axes, spec.out.axes)
    full = jnp.broadcast_to(wide, [spec.axes[axis] for axis in spec.out.axes])
    return full.reshape(spec.out.shape(spec.axes)).astype(product.dtype)


def _transpose(cotangents: Sequence[Any], lhs: Any, rhs: Any, *, spec: Product) -> list[Any]:
    """Of the bare product with one operand unknown: the product of the cotangent with the other. It is of the operands'
    dtype, as the forward's was.
    """
    of_lhs = ad.is_undefined_primal(lhs)
    unknown, known = (lhs, rhs) if of_lhs else (rhs, lhs)
    bare = spec.spec
    layouts = (bare.out, bare.rhs, bare.lhs) if of_lhs else (bare.lhs, bare.out, bare.rhs)
    dtype = unknown.aval.dtype
    cotangent = cotangents[0].astype(jnp.promote_types(dtype, known.dtype))
    first, second = (cotangent, known) if of_lhs else (known, cotangent)
    turned = MatmulSpec(bare.axes, *layouts)
    (found,) = bind(matmul_p, Product(turned, dtype, _partition(cotangent, unknown.aval, turned.out)), first, second)
    return [found, None] if of_lhs else [None, found]


def _partition(cotangent: Any, aval: Any, layout: Layout) -> tuple[tuple[str, Any], ...] | None:
    """How a gradient of this type is split, axis by axis, if axes of the cotangent's mesh are explicit."""
    if jax.sharding.AxisType.Explicit not in jax.typeof(cotangent).sharding.mesh.axis_types:
        return None
    return tuple((dim[0], split) for dim, split in zip(layout.dims, aval.sharding.spec, strict=True) if dim)


ad.primitive_jvps[matmul_p] = _jvp
ad.primitive_transposes[matmul_p] = _transpose


# ---- The function ----


def matmul(
    x: ArrayLike,
    y: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    activation: str | None = None,
    residual: ArrayLike | None = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    r"""Matrix product, and what often follows it.

    .. math:: out = act(x y + bias) + residual

    Sums, bias, activation and residual are computed in float32 at least, and the result is rounded once. Differentiated
    with an activation, the product is rounded to the result's dtype before, as it is kept for the backward.

    Args:
      x, y: floating-point arrays of shapes as for `jnp.matmul`: [..., M, K] and [..., K, N] with leading axes that
        broadcast, or [K] for either.
      bias: broadcasts to the result, often [N].
      activation: "relu", "tanh", "sigmoid", "silu", "gelu" (the exact one) or "gelu_tanh".
      residual: broadcasts to the result.
      preferred_element_type: dtype of the result, by default the promoted one of x and y.

    Returns: an array of shape [..., M, N].

    Raises:
      TypeError: if an argument is not of floating-point numbers.
      ValueError: if shapes do not fit, or for an unknown activation.
    """
    op = "matmul"
    x, y = floating(op, x=x, y=y)
    if activation is not None:
        check_choice(op, "activation", activation, ACTIVATIONS)
    spec = bare_spec(x.shape, y.shape)
    operand = jnp.promote_types(x.dtype, y.dtype)
    dtype = np.dtype(preferred_element_type or operand)
    check(op, jnp.issubdtype(dtype, jnp.floating), f"preferred_element_type is {dtype}, expected a floating-point type")
    modifiers: list[Any] = []
    layouts: list[Layout] = []
    steps: list[Step] = []

    def add(name: str, value: Any) -> None:
        for array in present(op, **{name: value}):
            layouts.append(added_layout(name, array.shape, spec))
            modifiers.append(array)
            steps.append(Step("add", operand=1 + len(modifiers)))

    add("bias", bias)
    if activation is not None:
        steps.append(Step(activation))
    add("residual", residual)
    full = MatmulSpec(spec.axes, spec.lhs, spec.rhs, spec.out, tuple(layouts), tuple(steps))
    (out,) = bind(matmul_p, Product(full, dtype), x.astype(operand), y.astype(operand), *modifiers)
    return out
