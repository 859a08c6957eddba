"""The bias that cuDNN is given for masks, bands and biases, and the rows that these hide as a whole.

cuDNN adds the bias to the logits in float32 and keeps of a row only its log-sum-exp. That goes wrong where a row is
hidden as a whole: its weights are 1 / S by the program, but the log-sum-exp of S logits of -2^41 is -2^41 again, so
that the backward pass finds weights of 1. Such rows are put right around the calls.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zenith_mlir.dialects.layout import Layout
from zenith_mlir.kernels.gpu.cudnn_layout import Arrangement
from zenith_mlir.kernels.gpu.cudnn_program import Band, Program

if TYPE_CHECKING:
    import jax

# Absorbs every logit in float32, and is a power of two, so that products with it are exact: with other numbers of that
# size cuDNN's kernels have given NaN. JAX uses the same for bfloat16.
HIDDEN = -(2.0**41)
# A bias of this or less takes a logit's last places with it: a row of such numbers is hidden as a whole.
_ABSORBS = -(2.0**28)


@dataclass(frozen=True)
class Modifiers:
    """The masks, bands and biases of a program, with the arrays that play the roles."""

    program: Program
    arrangement: Arrangement
    roles: Sequence[jax.Array]
    kept: frozenset[str] = frozenset()  # axes that the gradient of the bias keeps

    @property
    def dims(self) -> list[tuple[str, ...]]:
        """The dimensions of the bias."""
        return self.arrangement.bias({*axes_of_bias(self.program, self.arrangement.spec.role_layouts), *self.kept})

    def bias(self) -> jax.Array | None:
        """What cuDNN adds to the logits: [1 or batch, 1 or heads, T, S], or None."""
        import jax.numpy as jnp

        program, rows, columns = self.program, *self._size
        if not program.needs_bias(rows, columns):
            return None
        visible = self._visible(program.folded(rows, columns))
        added = None if program.bias is None else self._widened(program.bias)
        dtype = type_of_bias(self.roles[0].dtype, None if added is None else added.dtype, hides=visible is not None)
        if added is None:
            assert visible is not None
            bias = jnp.where(visible, dtype.type(0), dtype.type(HIDDEN))
        else:  # -inf and the smallest floats would become NaN in cuDNN's arithmetic
            lowest = max(HIDDEN, float(jnp.finfo(dtype).min))
            bias = jnp.maximum(added.astype(dtype), dtype.type(lowest))
            bias = bias if visible is None else jnp.where(visible, bias, dtype.type(HIDDEN))
        return jnp.broadcast_to(bias, self.arrangement.shape(self.dims))

    def hidden_rows(self) -> jax.Array:
        """Whether masks and band hide the row as a whole: bool, [batch, heads, T], or 1 where all are alike."""
        visible = self._visible(self.program.band)
        assert visible is not None
        return ~visible.any(axis=3)

    def absorbed_rows(self) -> tuple[jax.Array, jax.Array]:
        """The maximum of the bias in each row and how many columns have it: float32, shaped like `hidden_rows`.

        Where the maximum is so low that it absorbs the logits, these are the maximum and the sum of the row.
        """
        import jax.numpy as jnp

        assert self.program.bias is not None
        added, visible = self._widened(self.program.bias).astype(np.float32), self._visible(self.program.band)
        if visible is not None:
            added = jnp.where(visible, added, -np.inf)
        top = added.max(axis=3, keepdims=True)
        return top[..., 0], (added == top).sum(axis=3, dtype=np.float32)

    @property
    def _size(self) -> tuple[int, int]:
        return self.arrangement.spec.size("t"), self.arrangement.spec.size("s")

    def _widened(self, role: int) -> jax.Array:
        """What plays a role, with the dimensions of the bias; 1 where it does not vary."""
        import jax.numpy as jnp

        spec, value = self.arrangement.spec, self.roles[role]
        layout: Layout = spec.role_layouts[role]
        wide = [dim if set(dim) & set(layout.axes) else () for dim in self.dims]
        return jnp.asarray(self.arrangement.arrange(value, layout, wide))

    def _visible(self, band: Band) -> jax.Array | None:
        """Where masks and band hide nothing, or None if there are none; rank 4, 1 where it does not vary."""
        import jax.numpy as jnp

        parts = [self._widened(mask.role) != mask.negated for mask in self.program.masks]
        rows, columns = self._size
        offset = jnp.arange(columns, dtype=np.int32) - jnp.arange(rows, dtype=np.int32)[:, None]
        parts += [] if band.low is None else [(offset >= band.low)[None, None]]
        parts += [] if band.high is None else [(offset <= band.high)[None, None]]
        return functools.reduce(jnp.logical_and, parts) if parts else None

    def absorbs(self, top: jax.Array) -> jax.Array:
        """Whether a row with this maximum of the bias is hidden as a whole."""
        return top <= _ABSORBS


def axes_of_bias(program: Program, layouts: Sequence[Layout]) -> set[str]:
    """The axes over which masks and bias vary."""
    roles = [mask.role for mask in program.masks] + ([] if program.bias is None else [program.bias])
    return {axis for role in roles for axis in layouts[role].axes}


def type_of_bias(queries: Any, added: Any, *, hides: bool) -> Any:
    """What cuDNN is given: the type of the queries where it holds all that the bias says, else float32.

    `added`: the type of what is added, None if nothing is. `hides`: columns are hidden by this bias too.
    """
    same = added is None or added == queries
    fits = np.dtype(queries).name == "bfloat16" or not hides  # float16 does not reach to HIDDEN
    return np.dtype(queries if same and fits else np.float32)
