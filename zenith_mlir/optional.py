"""Libraries that are installed only for those who want what they do."""

from __future__ import annotations

import importlib
from types import ModuleType

from zenith_mlir.errors import ZenithError

__all__ = ["need"]


def need(module: str, extra: str) -> ModuleType:
    """Import `module`, which the optional dependency `extra` of zenith_mlir brings.

    Raises:
        ZenithError: saying what to install where it is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        library = module.partition(".")[0]
        raise ZenithError(f'this needs {library}, which is not installed: pip install "zenith_mlir[{extra}]"') from None
