"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as oir

from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.serialize import check_writable
from zenith_mlir.onnx.options import Placement

__all__ = ["beside", "data_file", "weight_bytes", "write"]

# A protocol buffer holds at most 2 GiB, of which the graph needs a part.
_LARGEST = 2**31 - 2**24
# Smaller weights stay in the file, where shape inference sees them.
_SMALL = 1024


def weight_bytes(model: oir.Model) -> int:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def data_file(path: Path) -> Path:
    """Where the weights of the model at `path` are, with weights="external"."""
    return path.with_name(path.name + ".data")


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A place for the files of `path`, which take the place of older ones when the block ends without an error.

    Raises:
        ZenithError: if nothing can be written there.
    """
    check_writable(str(path))
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            yield Path(folder) / path.name
            # The model last: it names the data.
            for written in sorted(Path(folder).iterdir(), key=lambda each: each.name == path.name):
                os.replace(written, path.with_name(written.name))
    except OSError as error:
        raise ZenithError(f"cannot write {path}: {error.strerror or error}") from error


def write(model: oir.Model, path: Path, weights: Placement) -> None:
    """Write the model and, with weights="external", the file of its weights, one weight after the other.

    Raises:
        ZenithError: if the weights are too large to be in the model's file, or have no value.
    """
    try:
        _write(model, path, weights)
    except oir.serde.SerdeError as error:
        cause = _root(error)
        raise cause if isinstance(cause, ZenithError) else ZenithError(f"cannot write {path}: {cause}") from None


def _root(error: BaseException) -> BaseException:
    """What an error, which quotes the whole model, came from."""
    return error if error.__cause__ is None else _root(error.__cause__)


def _write(model: oir.Model, path: Path, weights: Placement) -> None:
    if weights == "external":
        oir.save(model, path, external_data=data_file(path).name, size_threshold_bytes=_SMALL, max_workers=1)
        return
    size = weight_bytes(model)
    if size > _LARGEST:
        raise ZenithError(
            f"the weights are {size / 2**30:.1f} GiB, and an ONNX file holds at most 2; put them into a file beside "
            'it: weights="external"'
        )
    oir.save(model, path)
