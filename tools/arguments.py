"""Arguments of programs in files, for the command lines that run them."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

from zenith_mlir.errors import ZenithError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zenith_mlir.module import Module

__all__ = ["UsageError", "arrays_from_file"]


class UsageError(ZenithError):
    """Arguments of the command line that do not fit."""


def arrays_from_file(path: str, module: Module) -> list[NDArray[Any]]:
    """The arrays of an .npz, one for each argument of `main`: by the arguments' names if it has them, else in order.

    Raises:
        UsageError: if the file cannot be read, or holds another number of arrays.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: cannot be read as arrays written by numpy.savez: {error}") from error
    specs = module.input_specs
    if len(arrays) != len(specs):
        raise UsageError(f"{path} holds {len(arrays)} arrays, main takes {len(specs)}; save one for each argument")
    names = [spec.name for spec in specs]
    ordered = [arrays[name] for name in names] if set(names) == set(arrays) else list(arrays.values())
    return [_as_declared(array, spec.dtype) for array, spec in zip(ordered, specs, strict=True)]


def _as_declared(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """NumPy's files keep only the bytes of bfloat16 and its like."""
    return array.view(dtype) if array.dtype.kind == "V" and array.dtype.itemsize == dtype.itemsize else array
