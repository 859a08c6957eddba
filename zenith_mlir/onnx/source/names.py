"""Names for what a graph takes and gives: from pytree paths and signatures, legal and unique."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from zenith_mlir.errors import ZenithError

__all__ = ["join", "legal", "of_outputs", "of_parameters", "override", "unique"]


def legal(text: str) -> str:
    """Letters, digits, `_` and `.`; the slashes of module paths (`mlp/~/linear_0`) become dots."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", re.sub(r"(/~)?/", ".", text))


def join(path: Sequence[Any]) -> str:
    """A pytree path with dots: `layers.0.weight`."""
    return legal(jax.tree_util.keystr(tuple(path), simple=True, separator="."))


def of_parameters(path: Sequence[Any]) -> str:
    """As `join`, without the collection `params` that most of a Flax model is in, and without what leads into the
    boxes that Flax keeps arrays in: `Dense_0.kernel`, but `batch_stats.BatchNorm_0.mean`.
    """
    keys, last = path[:-1], path[-1] if path else None
    in_box = isinstance(last, jax.tree_util.GetAttrKey) and last.name in ("value", "raw_value")
    is_flax = bool(keys) and all(isinstance(key, jax.tree_util.DictKey) for key in keys)
    name = join(keys if in_box and is_flax else path)
    return name.removeprefix("params.") or "params"


def of_outputs(paths: Sequence[Sequence[Any]], inputs: Iterable[str]) -> list[str]:
    """Keys of dictionaries and fields of dataclasses name results; otherwise `output`, or `output_0`, `output_1`, ...

    What has the name of an input, as a cache that is handed on, gets another, since the names of a graph are one space:
    `past_key_values.0.key` becomes `present.0.key`, as exporters of Transformers have it, any other `cache.k` becomes
    `new_cache.k`.
    """
    taken = set(inputs)
    names = []
    for path in paths:
        is_item = bool(path) and isinstance(path[0], jax.tree_util.SequenceKey)
        name = f"output_{join(path)}" if is_item else join(path) or "output"
        if name in taken:
            past, _, rest = name.partition(".")
            name = f"present.{rest}" if past == "past_key_values" and rest else f"new_{name}"
        names.append(name)
    return names


def unique(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """The names with `_1`, `_2`, ... behind those that were there before."""
    seen = set(taken)
    result = []
    for name in names:
        candidate, count = name, 0
        while candidate in seen:
            count += 1
            candidate = f"{name}_{count}"
        seen.add(candidate)
        result.append(candidate)
    return result


def override(
    names: Sequence[str], groups: Sequence[int], given: Sequence[str] | None, what: str, taken: Iterable[str] = ()
) -> list[str]:
    """The names as the user wants them.

    `given` has one name for each of `names`, or one for each group: one argument, or one element of the result, with
    all that is in it. `groups` says the group of each name. In a group of several, what follows the first dot of a name
    stays.

    Raises:
        ZenithError: for another number of names, for a name twice, and for what is no name.
    """
    if given is None:
        return unique(names, taken)
    option = f"{what}_names"
    if isinstance(given, str) or not all(isinstance(name, str) and name for name in given):
        raise ZenithError(f"{option} is a list of names that are not empty, not {given!r}")
    top = list(dict.fromkeys(groups))
    if len(given) == len(names):
        result = list(given)
    elif len(given) == len(top):
        prefix = dict(zip(top, given, strict=True))
        result = [
            f"{prefix[group]}.{name.partition('.')[2]}" if groups.count(group) > 1 else prefix[group]
            for name, group in zip(names, groups, strict=True)
        ]
    else:
        either = f"{len(names)} names" if len(top) == len(names) else f"{len(top)} names, or {len(names)},"
        raise ZenithError(
            f"{option} has {len(given)} names, {list(given)}; {either} are expected, for {', '.join(names)}"
        )
    _no_duplicates(result, option, set(taken))
    return result


def _no_duplicates(names: Sequence[str], option: str, taken: set[str]) -> None:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ZenithError(f"{option} has {name!r} twice; each input and output needs a name of its own")
        if name in taken:
            raise ZenithError(f"{option} has {name!r}, which is the name of an input; outputs need other names")
