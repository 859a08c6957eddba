"""Haiku: `transformed.apply(params, rng, ...)`."""

from __future__ import annotations

import inspect
from typing import Any

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.source.model import Model, is_a, signature_of, without_first

__all__ = ["recognise"]


def recognise(fn: Any, params: Any) -> Model | None:
    """What `hk.transform` returns, with or without rng, with `params`; with state, `params=(params, state)`.

    The rng is None, or what is given by name: `kwargs={"rng": key}`, then it is an input, or
    `functools.partial(fn, rng=key)`. New state is not a result of the model.
    """
    if is_a(fn, "haiku", "TransformedWithState"):
        return _recognise(fn, params, has_state=True)
    return _recognise(fn, params, has_state=False) if is_a(fn, "haiku", "Transformed") else None


def _recognise(transformed: Any, params: Any, has_state: bool) -> Model:
    signature = signature_of(transformed.apply)
    takes_rng = signature is not None and "rng" in signature.parameters
    if params is None:
        raise ZenithError("a Haiku transform has no parameters of its own; give what its init returns as params=")

    def apply(variables: tuple[Any, ...], *args: Any, rng: Any = None, **kwargs: Any) -> Any:
        result = transformed.apply(*variables, *((rng,) if takes_rng else ()), *args, **kwargs)
        return result[0] if has_state else result

    if not has_state:
        return Model(lambda p, *args, **kwargs: apply((p,), *args, **kwargs), params, _rng_by_name(signature), "apply")
    if not (isinstance(params, tuple | list) and len(params) == 2):
        raise ZenithError(
            "of a Haiku transform with state params is the pair (params, state) that its init returns, not "
            f"{type(params).__name__}"
        )
    variables = {"params": params[0], "state": params[1]}
    return Model(
        lambda v, *args, **kwargs: apply((v["params"], v["state"]), *args, **kwargs),
        variables,
        _rng_by_name(without_first(signature)),
        "apply",
    )


def _rng_by_name(signature: Any) -> Any:
    """The parameters behind those of the transform, with the rng at the end."""
    rest = without_first(signature)
    if rest is None or "rng" not in rest.parameters:
        return rest
    parameters = [p for p in rest.parameters.values() if p.name != "rng"]
    extra = [parameters.pop()] if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD else []
    rng = inspect.Parameter("rng", inspect.Parameter.KEYWORD_ONLY, default=None)
    return rest.replace(parameters=[*parameters, rng, *extra])
