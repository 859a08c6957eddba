"""The calls of the CPU kernels of gated activations, `swiglu.cc`."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.typing import DTypeLike

from zenith_mlir.kernels.cpu.activation import Kind
from zenith_mlir.kernels.cpu.library import register


@dataclasses.dataclass(frozen=True)
class Columns:
    """Features of an operand: from column `offset` on of the operand at position `operand`."""

    operand: int
    offset: int = 0


NONE = Columns(-1)
"""In place of a bias: there is none."""


def swiglu_call(
    operands: Sequence[jax.Array],
    *,
    gate: Columns,
    up: Columns,
    gate_bias: Columns = NONE,
    up_bias: Columns = NONE,
    features: int,
    kind: Kind,
    slope: float = 1.0,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """act(gate + gate_bias) ∘ (up + up_bias), on XLA's CPU platform.

    Args:
      operands: gate and up are columns of arrays [..., f'], the biases columns of vectors; float32, bfloat16 or
        float16, each its own.
      features: f, the columns of each and of the result [..., f].
      slope: for SILU and SIGMOID the factor of the gate inside the logistic function.
      dtype: of the result; that of the gate unless given. The arithmetic is float32.

    Raises:
      KernelLibraryMissing: the kernels are not built.
      jax.errors.JaxRuntimeError: when it runs, naming the argument, where these do not fit each other.
    """
    register()
    source = operands[gate.operand]
    shape = (*source.shape[:-1], features)
    call = jax.ffi.ffi_call("zenith_swiglu", jax.ShapeDtypeStruct(shape, dtype or source.dtype))
    result: jax.Array = call(*operands, **_attributes((gate, up, gate_bias, up_bias), kind, slope))
    return result


def swiglu_vjp_call(
    operands: Sequence[jax.Array],
    cotangent: jax.Array,
    *,
    gate: Columns,
    up: Columns,
    gate_bias: Columns = NONE,
    up_bias: Columns = NONE,
    kind: Kind,
    slope: float = 1.0,
    dtypes: Sequence[DTypeLike] | None = None,
) -> tuple[jax.Array, ...]:
    """The gradients of gate and up, given the cotangent of what `swiglu_call` computes.

    Returns: d_gate and d_up of the cotangent's shape; or one array, where gate and up are the halves of one operand,
    with the gradients in the same halves. `dtypes` are theirs, those of the operands unless given.

    Raises: as `swiglu_call`.
    """
    register()
    halves = gate.operand == up.operand
    sources = [operands[columns.operand] for columns in ((gate,) if halves else (gate, up))]
    results = [
        jax.ShapeDtypeStruct((*cotangent.shape[:-1], cotangent.shape[-1] * (2 if halves else 1)), dtype)
        for dtype in dtypes or [source.dtype for source in sources]
    ]
    call = jax.ffi.ffi_call("zenith_swiglu_vjp", tuple(results))
    attributes = _attributes((gate, up, gate_bias, up_bias), kind, slope)
    return tuple(call(cotangent, *operands, **attributes))


def _attributes(columns: Sequence[Columns], kind: Kind, slope: float) -> dict[str, np.ndarray | np.generic]:
    return {
        "sources": np.asarray([c.operand for c in columns], np.int64),
        "offsets": np.asarray([c.offset for c in columns], np.int64),
        "kind": np.int64(kind),
        "slope": np.float32(slope),
    }
