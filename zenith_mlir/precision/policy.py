"""`Policy`: which dtype parameters are stored in, which one is computed in, and which one comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from zenith_mlir.errors import ZenithError, did_you_mean
from zenith_mlir.precision.dtypes import SHORT

__all__ = ["Policy", "PolicyError", "cast_floating"]

Tree = TypeVar("Tree")

_ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)

# Of one dtype throughout, or with parameters and results in float32.
_PRESETS = {
    "float32": "params=float32",
    "full": "params=float32",
    "bfloat16": "params=bfloat16",
    "float16": "params=float16",
    "half": "params=float16",
    "mixed_bfloat16": "compute=bfloat16",
    "mixed_float16": "compute=float16",
}

_PARTS = {
    "params": "params",
    "param": "params",
    "p": "params",
    "compute": "compute",
    "c": "compute",
    "output": "output",
    "o": "output",
}


class PolicyError(ZenithError):
    """A policy that cannot be read, or a dtype in it that is no floating-point type."""


@dataclass(frozen=True)
class Policy:
    """The dtypes of a model: its parameters are stored in the first, computed with in the second, and its results
    have the third.

        policy = Policy.parse("params=float32,compute=bfloat16,output=float32")
        model = policy.wrap(model)

    Hashable, so it may be a static argument. Dtypes are given as `jnp.bfloat16`, "bfloat16" or "bf16". Casts change
    arrays of real floating-point numbers; integers, booleans, complex numbers, PRNG keys and what is no array stay the
    objects they are. Why parameters stay in float32: Micikevicius et al. 2018, "Mixed Precision Training", section 3.1.

    XLA may leave out a rounding after which float32 follows, on CPUs above all; a program compiled with
    `compiler_options={"xla_allow_excess_precision": False}` rounds wherever the policy says.

    Raises:
        PolicyError: where a dtype is unknown or no floating-point type.
    """

    param_dtype: np.dtype[Any]
    compute_dtype: np.dtype[Any]
    output_dtype: np.dtype[Any]

    def __init__(self, param_dtype: DTypeLike, compute_dtype: DTypeLike, output_dtype: DTypeLike):
        for name, given in (("param", param_dtype), ("compute", compute_dtype), ("output", output_dtype)):
            object.__setattr__(self, f"{name}_dtype", _floating(given))

    @classmethod
    def parse(cls, text: str) -> Policy:
        """The policy that `text` names: a preset, or `params=DTYPE,compute=DTYPE,output=DTYPE`.

        Presets are `float32`, `bfloat16` and `float16` (all three dtypes; `full` and `half` are float32 and float16),
        and `mixed_bfloat16` and `mixed_float16` (computed in that dtype, parameters and results in float32). Parts may
        be left out: parameters are float32 then, and the others have the dtype of the parameters.

        Raises:
            PolicyError: saying what was expected and what came.
        """
        dtypes: dict[str, str] = {}
        for part in _PRESETS.get(text.strip(), text).split(","):
            key, equals, dtype = (word.strip() for word in part.partition("="))
            if not equals:
                raise PolicyError(
                    f"no precision policy {text!r}{did_you_mean(text, _PRESETS)}: expected one of "
                    f"{', '.join(_PRESETS)}, or params=float32,compute=bfloat16,output=float32"
                )
            if key not in _PARTS:
                close = did_you_mean(key, _PARTS)
                raise PolicyError(f"{key!r} in precision policy {text!r} is none of params, compute, output{close}")
            if _PARTS[key] in dtypes:
                raise PolicyError(f"precision policy {text!r} gives {_PARTS[key]} twice; give it once")
            dtypes[_PARTS[key]] = dtype
        params = dtypes.get("params", "float32")
        return cls(params, dtypes.get("compute", params), dtypes.get("output", params))

    def __str__(self) -> str:
        return f"params={self.param_dtype},compute={self.compute_dtype},output={self.output_dtype}"

    def cast_to_params(self, tree: Tree) -> Tree:
        """`tree` with its floating-point arrays in `param_dtype`."""
        return cast_floating(tree, self.param_dtype)

    def cast_to_compute(self, tree: Tree) -> Tree:
        """`tree` with its floating-point arrays in `compute_dtype`."""
        return cast_floating(tree, self.compute_dtype)

    def cast_to_output(self, tree: Tree) -> Tree:
        """`tree` with its floating-point arrays in `output_dtype`."""
        return cast_floating(tree, self.output_dtype)

    def wrap(self, target: Callable[..., Any]) -> Any:
        """`target` under this policy: a function, an Equinox module, or a Flax module (Linen or NNX).

        What is called sees its arguments and its parameters in `compute_dtype`, its results have `output_dtype`, and
        the parameters that are stored keep their dtype, and so do their gradients. `zenith_mlir.precision.wrap` says
        what this means for each kind.

        Raises:
            PolicyError: where `target` cannot be called.
        """
        from zenith_mlir.precision.wrap import wrap

        return wrap(target, self)


def cast_floating(tree: Tree, dtype: DTypeLike) -> Tree:
    """`tree` with its arrays of real floating-point numbers in `dtype`; everything else stays the object it is.

    Python's own floats stay too: in JAX they take on the dtype of what they meet.
    """

    def cast(leaf: Any) -> Any:
        # Not by the attribute dtype: modules and other objects have one too.
        if not isinstance(leaf, _ARRAYS) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf.update(dtype=dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf.astype(dtype)

    result: Tree = jax.tree.map(cast, tree)
    return result


def _floating(given: DTypeLike) -> np.dtype[Any]:
    try:
        if given is None:  # which numpy reads as float64
            raise TypeError
        dtype = jnp.dtype(SHORT.get(given, given) if isinstance(given, str) else given)
    except TypeError:
        close = did_you_mean(given, ("bfloat16", "float16", "float32", "float64")) if isinstance(given, str) else ""
        raise PolicyError(f"{given!r} is no dtype{close}: expected one such as float32, bfloat16 or float16") from None
    if not jnp.issubdtype(dtype, jnp.floating):
        raise PolicyError(f"{dtype} is no floating-point type: expected one such as float32, bfloat16 or float16")
    return dtype
