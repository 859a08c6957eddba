"""zenith.attention on CUDA through cuDNN's flash attention: what it takes, and the call for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zenith_mlir.dialects.attention import AttentionSpec
from zenith_mlir.dialects.implementation import Implementation, Refusal, Request
from zenith_mlir.dialects.labelled import einsum
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.ir import cudnn
from zenith_mlir.kernels.gpu import cudnn_limits as limits
from zenith_mlir.kernels.gpu.cudnn_bias import Modifiers, axes_of_bias
from zenith_mlir.kernels.gpu.cudnn_layout import Arrangement, choose
from zenith_mlir.kernels.gpu.cudnn_program import Program, fills_hidden_rows, read_program

if TYPE_CHECKING:
    import jax


def refuse(request: Request) -> Refusal | None:
    """Limits first (target, types, head size, steps), then worth (escaping probabilities, short sequences)."""
    spec: AttentionSpec = request.spec
    roles = spec.roles(request.operands)
    read = [*roles[:3], request.results[0]]
    return (
        limits.refuse_target(request.target)
        or limits.refuse_types(read)
        or limits.refuse_features(spec, request.target, backward=False)
        or refuse_program(spec, request)
        or limits.refuse_worth(spec, request)
    )


def refuse_program(spec: AttentionSpec, request: Request) -> Refusal | None:
    """Whether cuDNN can do the steps, with operands of these types."""
    program = read_program(spec)
    if isinstance(program, Refusal):
        return program
    return None if program.bias is None else limits.refuse_bias_type(spec.roles(request.operands)[program.bias])


def program_of(spec: AttentionSpec) -> Program:
    """The steps of a spec that was not refused."""
    program = read_program(spec)
    assert isinstance(program, Program)
    return program


def arrangement_of(spec: AttentionSpec, apart: Sequence[str] = ()) -> Arrangement:
    """The arrangement of operands for the call."""
    program = program_of(spec)
    biased = program.needs_bias(spec.size("t"), spec.size("s"))
    return choose(spec, axes_of_bias(program, spec.role_layouts) if biased else None, apart)


def call_of(program: Program, arrangement: Arrangement) -> cudnn.Call:
    """What forward and backward tell cuDNN."""
    rows, columns = arrangement.spec.size("t"), arrangement.spec.size("s")
    window = program.window(rows, columns)
    return cudnn.Call(program.scale, arrangement.heads_first, program.causal(), window)


def build(request: Request) -> Callable[..., Any]:
    """The call of cuDNN: out, or with residuals out, maximum and sum, where (log-sum-exp, 1) stands for both."""
    spec: AttentionSpec = request.spec
    arrangement, program = arrangement_of(spec), program_of(spec)
    call = call_of(program, arrangement)

    def attention(*operands: jax.Array) -> Any:
        roles = spec.roles(operands)
        modifiers = Modifiers(program, arrangement, roles)
        q, k, v = arranged(arrangement, roles)
        out, *rest = cudnn.forward(call, q, k, v, modifiers.bias(), log_sum_exp=spec.residuals)
        if fills_hidden_rows(program):
            out = _with_hidden_rows(out, v, modifiers)
        result = restored(arrangement, out, arrangement.results(), spec.out)
        if not spec.residuals:
            return result
        rows = arrangement.row_statistics()
        return result, *(restored(arrangement, x, rows, spec.rows) for x in _statistics(rest[0], modifiers))

    return attention


def arranged(arrangement: Arrangement, roles: Sequence[jax.Array]) -> list[jax.Array]:
    """Queries, keys and values for the call."""
    dims = [arrangement.queries(), arrangement.keys(), arrangement.values()]
    layouts = arrangement.spec.role_layouts[:3]
    return [arrangement.arrange(role, layout, dim) for role, layout, dim in zip(roles[:3], layouts, dims, strict=True)]


def restored(
    arrangement: Arrangement,
    value: jax.Array,
    dims: Sequence[tuple[str, ...]],
    layout: Layout,
    factor: float = 1.0,
    dtype: Any = None,
) -> jax.Array:
    """`value` of dimensions `dims` in a layout: factor times the sum over axes that it lacks, added in float32."""
    sizes, own = arrangement.spec.axes, arrangement.layout(dims)
    summed = any(sizes[axis] > 1 for axis in set(own.axes) - set(layout.axes))
    compute = np.float32 if summed or factor != 1.0 else value.dtype
    flat = einsum([(value, own)], sizes, layout.axes, compute)
    scaled = flat if factor == 1.0 else flat * np.float32(factor)
    return scaled.reshape(layout.shape(sizes)).astype(dtype or value.dtype)


def _with_hidden_rows(out: jax.Array, v: jax.Array, modifiers: Modifiers) -> jax.Array:
    """mean(v) in rows that masks hide as a whole, which is what the softmax of equal logits gives."""
    import jax.numpy as jnp

    arrangement = modifiers.arrangement
    mean = v.mean(axis=sequence_axis(arrangement), dtype=np.float32, keepdims=True).astype(out.dtype)
    return jnp.where(rows_of_results(modifiers.hidden_rows(), arrangement), over_groups(mean, arrangement), out)


def _statistics(lse: jax.Array, modifiers: Modifiers) -> tuple[jax.Array, jax.Array]:
    """The pair of which exp(x - maximum) / sum gives the weights."""
    import jax.numpy as jnp

    program, columns = modifiers.program, modifiers.arrangement.spec.size("s")
    maximum, total = lse, jnp.ones_like(lse)
    if program.bias is not None:
        top, count = modifiers.absorbed_rows()
        absorbed = modifiers.absorbs(top)
        maximum, total = jnp.where(absorbed, top, maximum), jnp.where(absorbed, count, total)
    if fills_hidden_rows(program):
        hidden = modifiers.hidden_rows()
        maximum = jnp.where(hidden, np.float32(program.fill), maximum)
        total = jnp.where(hidden, np.float32(columns), total)
    return maximum, total


def sequence_axis(arrangement: Arrangement) -> int:
    """Which dimension of queries, keys, values and results is the sequence."""
    return 2 if arrangement.heads_first else 1


def rows_of_results(rows: jax.Array, arrangement: Arrangement) -> jax.Array:
    """[batch, heads, T] or with ones, so that it broadcasts against queries and results."""
    return rows[..., None] if arrangement.heads_first else rows.swapaxes(1, 2)[..., None]


def over_groups(value: jax.Array, arrangement: Arrangement) -> jax.Array:
    """What has the heads of keys, repeated for those of queries."""
    import jax.numpy as jnp

    (groups,) = arrangement.shape([arrangement.groups])
    return value if groups == 1 else jnp.repeat(value, groups, axis=3 - sequence_axis(arrangement))


IMPLEMENTATION = Implementation("cudnn", "cuda", refuse, build, limits=limits.LIMITS)
