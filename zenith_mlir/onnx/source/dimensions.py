"""Symbols in the place of the sizes that `dynamic` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax import export

from zenith_mlir.errors import ZenithError, did_you_mean
from zenith_mlir.onnx.source.inputs import Input

__all__ = ["Dynamic", "symbolic"]

Spec = str | Mapping[int, str | int] | Sequence[str | int | None] | None
Dynamic = Mapping[str | int, Spec] | Sequence[Spec] | str | None


def symbolic(inputs: Sequence[Input], arguments: int, dynamic: Dynamic, constraints: Sequence[str]) -> list[Any]:
    """What to trace for each input: its example, or a jax.ShapeDtypeStruct with symbols among its sizes.

    All inputs share one scope, in which a symbol is one size.

    Raises:
        ZenithError: for keys that are no inputs, dimensions that the example does not have, sizes that differ from it.
    """
    specs = _specs(inputs, arguments, dynamic)
    scope = _scope(inputs, constraints)
    sizes: dict[str, tuple[int, str]] = {}
    return [
        each.example if spec is None else _with_symbols(each, spec, scope, sizes)
        for each, spec in zip(inputs, specs, strict=True)
    ]


def _specs(inputs: Sequence[Input], arguments: int, dynamic: Dynamic) -> list[Spec]:
    """What `dynamic` says of each input."""
    if dynamic is None:
        return [None] * len(inputs)
    if isinstance(dynamic, str):
        return [dynamic if each.shape else None for each in inputs]
    if not isinstance(dynamic, Mapping | Sequence):
        raise ZenithError(
            f"dynamic is a mapping from names of inputs or indices of arguments, a list or a string, not "
            f"{type(dynamic).__name__}; write dynamic={{'x': 'batch, ...'}}"
        )
    if not isinstance(dynamic, Mapping):
        if len(dynamic) != arguments:
            raise ZenithError(
                f"dynamic has {len(dynamic)} elements for {arguments} arguments; one for each is expected, None where "
                "all sizes are fixed"
            )
        return [dynamic[each.argument] for each in inputs]
    used: set[str | int] = set()
    specs = [_look_up(each, dynamic, used) for each in inputs]
    for key in dynamic:
        if key not in used:
            known = [each.name for each in inputs]
            close = did_you_mean(key, known) if isinstance(key, str) else ""
            raise ZenithError(f"dynamic names {key!r}, which is no input{close}; inputs are {', '.join(known)}")
    return specs


def _look_up(each: Input, dynamic: Mapping[str | int, Spec], used: set[str | int]) -> Spec:
    """By name; by the name of the argument or of a part of it that the input is in; by the index of the argument.

    What is said of many arrays is not of the numbers among them, as the index of a cache.
    """
    parts = each.name.split(".")
    keys: list[str | int] = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    for key in (*keys, each.argument):
        if key in dynamic:
            used.add(key)
            return dynamic[key] if each.shape or key == each.name else None
    return None


def _scope(inputs: Sequence[Input], constraints: Sequence[str]) -> export.SymbolicScope:
    """The scope of symbols that are in the examples already, or a new one."""
    given = [d for each in inputs for d in each.shape if export.is_symbolic_dim(d)]
    if given and constraints:
        raise ZenithError(
            "dynamic_constraints cannot be added to symbols that the arguments have already; give them where these are "
            "made, jax.export.symbolic_shape(..., constraints=...)"
        )
    if isinstance(constraints, str):
        raise ZenithError(f"dynamic_constraints is a list: write ({constraints!r},)")
    try:
        scope = given[0].scope if given else export.SymbolicScope(tuple(constraints))
    except ValueError as error:
        raise ZenithError(f"dynamic_constraints {list(constraints)} cannot be read: {_first_line(error)}") from error
    assert isinstance(scope, export.SymbolicScope)
    return scope


def _with_symbols(each: Input, spec: Spec, scope: Any, sizes: dict[str, tuple[int, str]]) -> Any:
    entries, rank = _entries(each, spec), len(each.shape)
    described = len(entries) - ("..." in entries)
    if "..." in entries and described <= rank:
        rest = entries.index("...")
        entries[rest : rest + 1] = ["_"] * (rank - described)
    if len(entries) != rank:
        raise ZenithError(
            f"dynamic for {each.name}: {', '.join(entries)!r} describes {described} dimensions, and the example has "
            f"{rank}, {_shape(each.shape)}; write one for each, _ for what is as in the example, ... for all the rest"
        )
    if not rank:
        return each.example
    try:
        shape = export.symbolic_shape(", ".join(entries), scope=scope, like=each.shape)
    except ValueError as error:
        raise ZenithError(
            f"dynamic for {each.name}, whose example is {_shape(each.shape)}: {_first_line(error)}"
        ) from error
    for size, example in zip(shape, each.shape, strict=True):
        _one_size(each, size, example, sizes)
    return jax.ShapeDtypeStruct(shape, each.example.dtype, weak_type=False)


def _entries(each: Input, spec: Spec) -> list[str]:
    """What is given for the dimensions of one input, `_` and `...` among it."""
    if isinstance(spec, str):
        entries = _split(spec.strip().removesuffix(","))
        is_tuple = len(entries) == 1 and entries[0].startswith("(") and entries[0].endswith(")")
        return _split(entries[0][1:-1].removesuffix(",")) if is_tuple else entries
    if isinstance(spec, Mapping):
        rank = len(each.shape)
        entries = ["_"] * rank
        for axis, size in spec.items():
            if not isinstance(axis, int) or not -rank <= axis < rank:
                raise ZenithError(
                    f"dynamic for {each.name}: there is no axis {axis!r}; the example is {_shape(each.shape)}, and "
                    f"axes are integers from 0 to {rank - 1}"
                )
            entries[axis] = str(size)
        return entries
    if isinstance(spec, Sequence):
        return ["_" if size is None else str(size) for size in spec]
    raise ZenithError(
        f'dynamic for {each.name} is {type(spec).__name__} {spec!r}; expected is a string, "batch, seq, 768", or a '
        "mapping from axes to names, {0: 'batch'}"
    )


def _split(text: str) -> list[str]:
    """At commas that are in no parentheses: max(b, 2) is one size."""
    entries, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            entries.append("")
        else:
            entries[-1] += letter
    return [entry.strip() for entry in entries] if text.strip() else []


def _one_size(each: Input, size: Any, example: Any, sizes: dict[str, tuple[int, str]]) -> None:
    """One symbol cannot be two sizes in the examples."""
    symbol = str(size)
    if not export.is_symbolic_dim(size) or export.is_symbolic_dim(example) or not symbol.isidentifier():
        return
    before, where = sizes.setdefault(symbol, (example, each.name))
    if before != example:
        raise ZenithError(
            f"the dimension {symbol!r} is {before} in the example for {where} and {example} in that for {each.name}; "
            "give them two names, or examples that agree"
        )


def _shape(shape: Sequence[Any]) -> str:
    return f"({', '.join(map(str, shape))})"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
