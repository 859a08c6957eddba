"""The policies that zenith.checkpoint hands to jax.checkpoint, by which its programs are known again when lowered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Policy", "keeps_barriers"]


@dataclass(frozen=True)
class Policy:
    """A policy of jax.checkpoint with a mark. JAX leaves it in the parameters of what it computes again, the backward's
    too, whatever transformations come in between.
    """

    saveable: Callable[..., Any]

    def __call__(self, primitive: Any, *args: Any, **params: Any) -> Any:
        return self.saveable(primitive, *args, **params)


def keeps_barriers(jaxpr: Any) -> bool:
    """Whether something in `jaxpr`, at any depth, is computed again behind a barrier under a `Policy`."""
    seen: set[int] = set()
    stack = [jaxpr]
    while stack:
        inner = stack.pop()
        if id(inner) in seen:
            continue
        seen.add(id(inner))
        for eqn in inner.eqns:
            if isinstance(eqn.params.get("policy"), Policy) and _has_barrier(eqn.params):
                return True
            stack.extend(_jaxprs(eqn.params))
    return False


def _has_barrier(params: dict[str, Any]) -> bool:
    """Whether jax.checkpoint lowers to one: in a backward, unless told that it need not."""
    prevent_cse = params.get("prevent_cse", True)
    return params.get("differentiated", True) and (any(prevent_cse) if isinstance(prevent_cse, tuple) else prevent_cse)


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs, open or closed, among an equation's parameters."""
    for value in params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if hasattr(item, "eqns"):
                yield item
