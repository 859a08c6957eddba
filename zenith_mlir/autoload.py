"""Binds the pipeline named by ZENITH_PIPELINE in a program that never mentions zenith_mlir.

`autoload.pth` beside this file, which the wheel puts where Python reads such files at start-up, imports it if
the variable is set; `python -m zenith_mlir` imports it too. Nothing else happens until the program imports
jax: importing it here would be too early for programs that set JAX's own environment variables first, and
wasteful for those that never use it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["after_jax"]


def after_jax() -> None:
    """Import `zenith_mlir.hook`, which reads the environment, once jax is imported: now if it is."""
    if "jax" in sys.modules:
        import zenith_mlir.hook  # noqa: F401
    elif not any(isinstance(finder, _JaxFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _JaxFinder())


class _JaxFinder:
    """Finds jax once, by the finders behind it, and continues after its import."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "jax":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            _then_hook(spec.loader)
        return spec


def _then_hook(loader: object) -> None:
    """Make `loader` import the hook after the module it loads.

    It stays the loader of the module, through which resources and sources are found.
    """
    execute = loader.exec_module  # type: ignore[attr-defined]

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module  # type: ignore[attr-defined]
        execute(module)
        import zenith_mlir.hook  # noqa: F401

    loader.exec_module = exec_module  # type: ignore[attr-defined]


after_jax()
