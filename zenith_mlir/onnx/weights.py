"""Arrays by name from a file."""

from __future__ import annotations

import os
import zipfile
from typing import Any

import numpy as np

from zenith_mlir.errors import ZenithError

__all__ = ["read_weights"]


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a file of numpy.savez.

    Raises:
        ZenithError: for another file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise ZenithError(
            f"{os.fspath(path)} is no file of arrays by name, as numpy.savez writes it: {error}"
        ) from None
