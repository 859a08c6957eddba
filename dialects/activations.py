"""The activation functions by name, as JAX functions: what zenith.gelu, zenith.silu and zenith.swiglu apply.

gelu       x Φ(x), Φ(x) = (1 + erf(x / √2)) / 2        (Hendrycks and Gimpel 2016)
gelu_tanh  x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2
silu       x σ(slope x), σ(y) = 1 / (1 + e^-y); slope 1.702 is the "quick" GELU
sigmoid    σ(slope x)
relu       max(x, 0)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax


def _gelu(x: jax.Array, slope: float) -> jax.Array:
    import jax

    return x * (0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5))


def _gelu_tanh(x: jax.Array, slope: float) -> jax.Array:
    import jax.numpy as jnp

    return x * (0.5 + 0.5 * jnp.tanh((2 / 3.141592653589793) ** 0.5 * (x + 0.044715 * (x * x * x))))


def _silu(x: jax.Array, slope: float) -> jax.Array:
    import jax

    return x * jax.lax.logistic(slope * x)


def _sigmoid(x: jax.Array, slope: float) -> jax.Array:
    import jax

    return jax.lax.logistic(slope * x)


def _relu(x: jax.Array, slope: float) -> jax.Array:
    import jax

    return jax.nn.relu(x)


ACTIVATIONS: dict[str, Callable[[jax.Array, float], jax.Array]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "sigmoid": _sigmoid,
    "relu": _relu,
}


def apply(activation: str, slope: float, x: jax.Array) -> jax.Array:
    """The activation of x, in the dtype of x."""
    return ACTIVATIONS[activation](x, slope)
