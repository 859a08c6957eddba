"""Activations as people spell them, and whether what raise-activation says of a program is what it computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

import zenith_mlir as zenith
from zenith_mlir.certify.composites import isolated_composites
from zenith_mlir.dialects import gelu, gelu_vjp, silu, silu_vjp, swiglu, swiglu_vjp
from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.dialects.table import OPS
from zenith_mlir.ir.composites import composite_attributes, zenith_composites
from zenith_mlir.ir.executable import compile_module
from zenith_mlir.ir.float64 import to_float64

RAISE = "prepare,raise-activation"
BF16, F16, F32 = jnp.bfloat16, jnp.float16, jnp.float32
ROOT = (2 / np.pi) ** 0.5
REFERENCES = {op.NAME: op.reference for op in (gelu, gelu_vjp, silu, silu_vjp, swiglu, swiglu_vjp)}

Function = Callable[..., Any]


def array(*shape: int, dtype: Any = F32, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, F32).astype(dtype)


def raised(function: Function, *arguments: Any, target: str = "none") -> zenith.Module:
    return zenith.trace(function, *arguments).run(RAISE, target=target)


def passed(module: zenith.Module) -> list[tuple[str, dict[str, Any]]]:
    return [(r.op, dict(r.args)) for r in module.remarks if r.kind == "passed" and r.pass_name == "raise-activation"]


def missed(module: zenith.Module) -> list[str]:
    return [r.reason for r in module.remarks if r.kind == "missed" and r.pass_name == "raise-activation"]


def check_attributes(module: zenith.Module) -> int:
    """Hold what each composite's attributes mean, in float64, to the code that was outlined; returns how many."""
    count = 0
    for name, alone in isolated_composites(module):
        (composite,) = zenith_composites(alone.operation)
        spec = OPS[name].read(from_attribute(composite_attributes(composite)))
        rng = np.random.default_rng(count)
        operands = [3 * rng.standard_normal(s.shape) for s in alone.input_specs]
        narrow = any(s.dtype.itemsize == 2 for s in alone.input_specs)
        computed = compile_module(to_float64(alone), "cpu")(*operands)
        with jax.enable_x64(True):
            formula = jax.jit(partial(REFERENCES[name], spec, dtype=jnp.float64))(*operands)
        expected = formula if isinstance(formula, tuple) else (formula,)
        for found, right in zip(computed, expected, strict=True):
            scale = max(1.0, float(np.abs(right).max()))
            # Constants are rounded to the program's types.
            np.testing.assert_allclose(found, right, rtol=0, atol=(8e-3 if narrow else 2e-6) * scale)
        count += 1
    return count


FORMS: dict[str, tuple[str, float, Function]] = {
    "jax.nn.gelu exact": ("gelu", 1.0, lambda x: jax.nn.gelu(x, approximate=False)),
    "erf": ("gelu", 1.0, lambda x: x * 0.5 * (1 + jax.lax.erf(x / np.sqrt(2).astype(x.dtype)))),
    "erf, halved last": ("gelu", 1.0, lambda x: 0.5 * (x + x * jax.lax.erf(x * 0.5**0.5))),
    "erfc": ("gelu", 1.0, lambda x: x * (1 - 0.5 * jax.lax.erfc(x * 0.5**0.5))),
    "jax.scipy.stats.norm.cdf": ("gelu", 1.0, lambda x: (x * norm.cdf(x.astype(F32))).astype(x.dtype)),
    "jax.nn.gelu tanh": ("gelu_tanh", 1.0, jax.nn.gelu),
    "tanh, multiplied out": ("gelu_tanh", 1.0, lambda x: 0.5 * (x + x * jnp.tanh(ROOT * x * (1 + 0.044715 * x * x)))),
    "tanh, power": (
        "gelu_tanh", 1.0, lambda x: 0.5 * x * (1 + jnp.tanh(ROOT * (x + 0.044715 * jnp.power(x, 3.0))))
    ),
    "tanh as logistic": ("gelu_tanh", 1.0, lambda x: x * jax.nn.sigmoid(2 * ROOT * (x + 0.044715 * x**3))),
    "jax.nn.silu": ("silu", 1.0, jax.nn.silu),
    "logistic primitive": ("silu", 1.0, lambda x: jax.lax.logistic(x) * x),
    "x / (1 + exp(-x))": ("silu", 1.0, lambda x: x / (1 + jnp.exp(-x))),
    "silu by tanh": ("silu", 1.0, lambda x: 0.5 * x * (1 + jnp.tanh(0.5 * x))),
    "silu by a growing exponential": ("silu", 1.0, lambda x: x - x / (1 + jnp.exp(x))),
    "quick gelu": ("silu", 1.702, lambda x: x * jax.nn.sigmoid(1.702 * x)),
    "float32 inside": ("silu", 1.0, lambda x: jax.nn.silu(x.astype(F32)).astype(x.dtype)),
}  # fmt: skip
