"""Passes by name: the base class, their options, and where they are found.

A pass is a frozen dataclass; its fields are its options; its docstring is what `zenith-opt --explain` shows::

    @register("fuse-attention")
    @dataclass(frozen=True)
    class FuseAttention(Pass):
        \"\"\"Replace softmax(q kᵀ · scale + bias) v by one attention call.\"\"\"

        min_seq: int = option(32, "leave shorter sequences to XLA")

        def run(self, module: Module, ctx: PassContext) -> None: ...

Built-in passes are found by file name (`passes/fuse_attention.py`) when first asked for. Packages offer their
own through the entry point group `zenith_mlir.passes`, the entry point's name being the pass's.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from zenith_mlir.errors import PipelineError, ZenithError, did_you_mean

if TYPE_CHECKING:
    from zenith_mlir.context import PassContext
    from zenith_mlir.module import Module

__all__ = ["ENTRY_POINTS", "Pass", "find", "is_pass", "names", "option", "register", "run_in_turn"]

ENTRY_POINTS = "zenith_mlir.passes"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_passes: dict[str, type[Pass]] = {}


@dataclasses.dataclass(frozen=True)
class Pass:
    """A rewrite of one module.

    `str(pass)` is its textual form, with the options that differ from their defaults.
    """

    name: ClassVar[str] = ""

    def run(self, module: Module, ctx: PassContext) -> None:
        """Rewrite `module` in place; raise `ZenithError`, with a message for the user, if that cannot be."""
        raise NotImplementedError

    def __str__(self) -> str:
        from zenith_mlir.options import format_options

        return self.name + format_options(self)


def run_in_turn(passes: Iterable[Pass], module: Module, ctx: PassContext) -> None:
    """Run passes inside of another one; remarks carry their own names."""
    for stage in passes:
        stage.run(module, dataclasses.replace(ctx, pass_name=stage.name))


def option(default: Any, help: str) -> Any:
    """A field of a pass that is an option.

    Its type is the annotation's: bool, int, float, str, Literal, `X | None`, `tuple[X, ...]` (commas),
    an Enum, or a class with a `parse(text)`.
    """
    return dataclasses.field(default=default, metadata={"help": help})


_P = TypeVar("_P", bound=type[Pass])


def register(name: str) -> Callable[[_P], _P]:
    """Give a pass its name on the command line: lower case words joined by hyphens."""
    if not _NAME.fullmatch(name):
        raise ZenithError(f"a pass is named by lower case words joined by hyphens, not {name!r}")

    def bind(cls: _P) -> _P:
        if not (isinstance(cls, type) and issubclass(cls, Pass) and "__dataclass_fields__" in vars(cls)):
            raise ZenithError(f"{name}: a pass is a @dataclass(frozen=True) class deriving from Pass, below @register")
        earlier = _passes.get(name)
        if earlier and (earlier.__module__, earlier.__qualname__) != (cls.__module__, cls.__qualname__):
            where = f"{earlier.__module__}.{earlier.__qualname__}"
            raise ZenithError(
                f"the name {name} is taken by {where}; choose another for {cls.__module__}.{cls.__qualname__}"
            )
        cls.name = name
        _passes[name] = cls
        return cls

    return bind


def find(name: str) -> type[Pass]:
    """The pass of that name.

    Raises:
        PipelineError: if there is none; the message names the ones spelled alike.
    """
    for load in (_registered, _built_in, _from_entry_point):
        found = load(name)
        if found is not None:
            return found
    raise PipelineError(f"unknown pass {name}{did_you_mean(name, names())}; --list-passes shows them all")


def is_pass(name: str) -> bool:
    """Whether `find` finds it. Entry points, slow to look up, come last."""
    return name in _passes or name in _built_in_names() or name in _entry_points()


def names() -> list[str]:
    """Every pass that can be found, sorted, without importing any."""
    return sorted({*_passes, *_built_in_names(), *_entry_points()})


def _registered(name: str) -> type[Pass] | None:
    return _passes.get(name)


def _built_in(name: str) -> type[Pass] | None:
    if name not in _built_in_names():
        return None
    importlib.import_module(f"zenith_mlir.passes.{name.replace('-', '_')}")
    return _passes.get(name)


def _from_entry_point(name: str) -> type[Pass] | None:
    entry = _entry_points().get(name)
    if entry is None:
        return None
    loaded = entry.load()
    if not (inspect.isclass(loaded) and issubclass(loaded, Pass) and loaded.name == name):
        raise ZenithError(f"the entry point {name} = {entry.value} is not a class under @register({name!r})")
    return loaded


@functools.cache
def _built_in_names() -> frozenset[str]:
    from zenith_mlir import passes

    files = pkgutil.iter_modules(passes.__path__)
    return frozenset(file.name.replace("_", "-") for file in files if not file.name.startswith("_"))


@functools.cache
def _entry_points() -> dict[str, Any]:
    from importlib.metadata import (
        entry_points,
    )  # slow to import, and only needed for passes that are not ours

    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
