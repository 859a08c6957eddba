"""Where arrays go when a manager needs their room: pinned host memory, NumPy, or files. They come back as they were."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from typing import Any, Protocol

import jax
import numpy as np
from numpy.typing import NDArray

from zenith_mlir.errors import ZenithError

__all__ = ["Disk", "Host", "Saved", "Spill", "SpillError"]


class SpillError(ZenithError):
    """An array that cannot be moved out of device memory, or not be brought back."""


class Saved(Protocol):
    """An array that is elsewhere. Its memory or file is given back when this object dies."""

    where: str
    nbytes: int

    def load(self) -> jax.Array: ...


class Spill(Protocol):
    """A place for arrays."""

    def save(self, array: jax.Array) -> Saved: ...


class Host:
    """Host memory: pinned where the backend has such a kind of memory beside its own, else NumPy's."""

    def save(self, array: jax.Array) -> Saved:
        return _Pinned(array) if _has_pinned_memory(array) else _InNumPy(array)


class Disk:
    """Files in a temporary directory below `directory` (None: the system's), which goes when this object does."""

    def __init__(self, directory: str | os.PathLike[str] | None = None):
        try:
            self.path = tempfile.mkdtemp(prefix="zenith-memory-", dir=directory)
        except OSError as error:
            raise SpillError(f"cannot make a directory for arrays in {directory}: {error.strerror}") from None
        self.close = weakref.finalize(self, _remove_tree, self.path, os.getpid())

    def save(self, array: jax.Array) -> Saved:
        """Write `array` into a file of its own, whole or not at all.

        Raises:
            SpillError: if the file cannot be written; the array is where it was.
        """
        return _InFile(array, self.path)


def _numbers(array: jax.Array) -> jax.Array:
    """The integers that an array of PRNG keys is made of, or the array."""
    result: jax.Array = jax.random.key_data(array) if _key(array) is not None else array
    return result


def _key(array: jax.Array) -> Any:
    """The generator that PRNG keys are for; None for other arrays."""
    return jax.random.key_impl(array) if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key) else None


def _again(numbers: jax.Array, key: Any) -> jax.Array:
    result: jax.Array = numbers if key is None else jax.random.wrap_key_data(numbers, impl=key)
    return result


class _Pinned:
    where = "host"

    def __init__(self, array: jax.Array):
        self.nbytes = array.nbytes
        self._key = _key(array)
        numbers = _numbers(array)
        self._sharding = numbers.sharding
        # Only once it has arrived is the memory on the device free.
        self._there = jax.device_put(numbers, self._sharding.with_memory_kind("pinned_host")).block_until_ready()

    def load(self) -> jax.Array:
        return _again(jax.device_put(self._there, self._sharding), self._key)


class _Copy:
    """The numbers of an array outside of JAX."""

    def __init__(self, array: jax.Array):
        self.nbytes = array.nbytes
        self._key = _key(array)
        numbers = _numbers(array)
        self._shape, self._dtype = numbers.shape, numbers.dtype
        # An array that is not committed to its device follows others to theirs, and shall do so again.
        self._sharding = numbers.sharding if array.committed else None

    def back(self, content: NDArray[Any]) -> jax.Array:
        numbers = content.view(self._dtype).reshape(self._shape)
        return _again(jax.device_put(numbers, self._sharding), self._key)


class _InNumPy(_Copy):
    where = "host"

    def __init__(self, array: jax.Array):
        super().__init__(array)
        # A copy: on a CPU np.asarray looks into the array's own memory and keeps it.
        self._content = np.array(_numbers(array), copy=True)

    def load(self) -> jax.Array:
        return self.back(self._content)


class _InFile(_Copy):
    where = "disk"

    def __init__(self, array: jax.Array, folder: str):
        super().__init__(array)
        content = np.asarray(_numbers(array)).reshape(-1)
        try:
            handle, unfinished = tempfile.mkstemp(dir=folder, suffix=".part")
            try:
                with open(handle, "wb") as file:
                    # .npy has no names for the types of ml_dtypes: bytes.
                    np.save(file, content.view(np.uint8), allow_pickle=False)
                self._path = unfinished.removesuffix(".part") + ".npy"
                os.replace(unfinished, self._path)
            except BaseException:
                os.unlink(unfinished)
                raise
        except OSError as error:
            raise SpillError(f"cannot write an array of {self.nbytes} bytes to {folder}: {error.strerror}") from None
        weakref.finalize(self, _remove, self._path, os.getpid())

    def load(self) -> jax.Array:
        """The array again.

        Raises:
            SpillError: if the file is gone or damaged.
        """
        try:
            return self.back(np.load(self._path, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise SpillError(f"cannot read an array back from {self._path}: {error}") from None


def _has_pinned_memory(array: jax.Array) -> bool:
    """Whether all devices of `array` have pinned host memory, and it is other memory than their own."""
    devices: set[Any] = array.sharding.device_set
    kinds = [
        {memory.kind for memory in device.addressable_memories()} for device in devices if device.platform != "cpu"
    ]
    return len(kinds) == len(devices) and all("pinned_host" in each for each in kinds)


def _remove(path: str, owner: int) -> None:
    # A forked child shares the files and does not own them.
    if os.getpid() == owner and os.path.exists(path):
        os.unlink(path)


def _remove_tree(path: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
