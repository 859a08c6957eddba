"""`Policy.wrap`: functions and modules that run under a policy.

==================  ==========================================================================================
a function          arguments to the dtype of computing, results to that of results. An argument may be a model
an Equinox module,  the same, and its own arrays are cast for the call too. Any callable pytree is such a module
`tree_util.Partial`
Flax NNX            `nnx.Param`s are cast for the call; what the call changes of the rest (batch statistics, counters
                    of dropout) is changed in the module itself, and changes of `nnx.Param`s are lost
Flax Linen          `init` gives parameters in the dtype of parameters; `apply` casts the collection "params" for the
                    call, or, where the module has a field `dtype`, sets it and leaves the casting to the module
==================  ==========================================================================================

A model's own decision for float32 (a norm with `dtype=float32`) stands: such layers cast what they are given.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import jax

from zenith_mlir.precision.policy import Policy, PolicyError

__all__ = ["LinenUnderPolicy", "wrap"]


def wrap(target: Any, policy: Policy) -> Any:
    """See `Policy.wrap`."""
    if _is_module(target, "flax.linen"):
        return LinenUnderPolicy(_with_dtypes(target, policy), policy)
    if not callable(target):
        raise PolicyError(f"only functions and modules can be wrapped by a precision policy, and {target!r} is neither")
    # A module of NNX holds state that is written to, so it is an argument: itself, or what a method is bound to.
    if _is_module(target, "flax.nnx"):
        return functools.partial(_function(type(target).__call__, policy), target)
    if inspect.ismethod(target) and _is_module(target.__self__, "flax.nnx"):
        return functools.partial(_function(target.__func__, policy), target.__self__)
    return _function(target, policy)


def _function(function: Callable[..., Any], policy: Policy) -> Callable[..., Any]:
    def under_policy(*args: Any, **kwargs: Any) -> Any:
        given, tree = jax.tree.flatten((args, kwargs), is_leaf=_is_nnx)
        seen = [_nnx_cast(leaf, policy) if _is_nnx(leaf) else policy.cast_to_compute(leaf) for leaf in given]
        cast_args, cast_kwargs = jax.tree.unflatten(tree, seen)
        # A function is a leaf of its own that no cast touches; a module is cast like any other tree.
        result = policy.cast_to_output(policy.cast_to_compute(function)(*cast_args, **cast_kwargs))
        for module, cast in zip(given, seen, strict=True):
            if _is_nnx(module):
                _nnx_write_back(module, cast)
        return result

    return functools.update_wrapper(under_policy, function, updated=())


@dataclass(frozen=True)
class LinenUnderPolicy:
    """A Linen module under a policy, with the `init` and `apply` of the module."""

    module: Any
    policy: Policy

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """The variables of the module, the collection "params" in the dtype of parameters."""
        args, kwargs = self.policy.cast_to_compute((args, kwargs))
        return self._as_stored(self.module.init(rngs, *args, **kwargs))

    def apply(self, variables: Any, *args: Any, mutable: Any = False, **kwargs: Any) -> Any:
        """What the module gives, in the dtype of results; with `mutable`, a pair of that and the changed variables."""
        if not _has_field(self.module, "dtype") and "params" in variables:
            variables = {**variables, "params": self.policy.cast_to_compute(variables["params"])}
        args, kwargs = self.policy.cast_to_compute((args, kwargs))
        result = self.module.apply(variables, *args, mutable=mutable, **kwargs)
        if mutable is False:
            return self.policy.cast_to_output(result)
        return self.policy.cast_to_output(result[0]), self._as_stored(result[1])

    def _as_stored(self, variables: Any) -> Any:
        if "params" not in variables:
            return variables
        return {**variables, "params": self.policy.cast_to_params(variables["params"])}


def _with_dtypes(module: Any, policy: Policy) -> Any:
    wanted = {"dtype": policy.compute_dtype, "param_dtype": policy.param_dtype}
    return module.clone(**{name: dtype for name, dtype in wanted.items() if _has_field(module, name)})


def _has_field(module: Any, name: str) -> bool:
    return any(field.name == name for field in fields(module))


def _nnx_cast(module: Any, policy: Policy) -> Any:
    from flax import nnx

    graph, params, *rest = nnx.split(module, nnx.Param, ...)
    return nnx.merge(graph, policy.cast_to_compute(params), *rest)


def _nnx_write_back(module: Any, cast: Any) -> None:
    from flax import nnx

    # Recent releases of Flax share the variables that were not cast; what the call adds is not shared.
    nnx.update(module, nnx.state(cast, nnx.Not(nnx.Param)))


def _is_nnx(value: Any) -> bool:
    return _is_module(value, "flax.nnx")


def _is_module(value: Any, library: str) -> bool:
    # Nothing is a module of a library that nobody imported.
    imported = sys.modules.get(library)
    return imported is not None and isinstance(value, imported.Module)
