"""Arrays within a budget: what does not fit waits in host memory or on disk."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NamedTuple, SupportsIndex, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from zenith_mlir.errors import ZenithError
from zenith_mlir.memory.pool import Pool
from zenith_mlir.memory.sizes import Budget, format_bytes, parse_bytes
from zenith_mlir.memory.spill import Disk, Host, Saved, Spill

__all__ = ["BudgetExceeded", "Handle", "Manager", "Policy", "Stats"]

Policy = Literal["lru", "fifo", "size"]


class BudgetExceeded(ZenithError):
    """`asked` bytes more do not fit `budget`: `used` are in use, `held` of them by arrays that the program holds on to,
    which nothing can be done about here.
    """

    def __init__(self, asked: int, used: int, held: int, budget: int):
        super().__init__(
            f"{format_bytes(asked)} do not fit: {format_bytes(used)} of a budget of {format_bytes(budget)} are in use, "
            f"{format_bytes(held)} of them by arrays that the program refers to; "
            + (
                "raise the budget or split the array"
                if asked > budget
                else "let go of arrays that get() returned, free handles, or raise the budget"
            )
        )
        self.asked, self.used, self.held, self.budget = asked, used, held, budget


@dataclass(frozen=True)
class Stats:
    """What a manager did. Bytes: `used` of `budget` on the device, `peak` the most so far, `pooled` of them free for
    `empty`, and what is in `host` memory and on `disk`. Counts: arrays `resident` and `spilled` now; `hits` and
    `misses` of `get`; `evictions`, `prefetches`, and buffers `reused` by `empty`.
    """

    budget: int
    used: int
    peak: int
    pooled: int
    host: int
    disk: int
    resident: int
    spilled: int
    hits: int
    misses: int
    evictions: int
    prefetches: int
    reused: int


class Handle:
    """An array in a manager's care; made by `Manager.put` and `Manager.empty`. When the handle dies the array goes."""

    def __init__(self, manager: Manager, array: jax.Array, poolable: bool):
        self.shape: tuple[int, ...] = array.shape
        self.dtype = array.dtype
        self.nbytes = bytes_of(array)
        self._manager = manager
        self._array: jax.Array | None = array
        self._saved: Saved | None = None
        self._poolable = poolable
        # numpy has no weak types, so an array that has one would not come back as it was.
        self._movable = not getattr(array, "weak_type", False)
        self._lock = threading.RLock()
        self._made: int = next(manager._clock)
        self._used: int = self._made

    @property
    def where(self) -> Literal["device", "host", "disk", "gone"]:
        """Where the array is; gone if it was freed, deleted or donated."""
        array, saved = self._array, self._saved
        if array is not None and not array.is_deleted():
            return "device"
        return "gone" if saved is None else saved.where  # type: ignore[return-value]

    def get(self) -> jax.Array:
        """The array, brought back to the device if it was elsewhere. While the caller refers to it, it stays there.

        Raises:
            BudgetExceeded: if there is no room for it.
            ZenithError: if it was freed, or deleted or donated to a computation, or the manager is closed.
        """
        return self._manager._get(self)

    def prefetch(self) -> Future[None]:
        """Begin to bring the array back, in a thread of the manager's and only into room that is free. The future is
        done when that is over.
        """
        return self._manager._prefetch(self)

    def free(self) -> None:
        """Let the array go, wherever it is. What `Manager.empty` made is kept for the next like it."""
        self._manager._free(self)

    def __repr__(self) -> str:
        return f"Handle({self.dtype}[{','.join(map(str, self.shape))}], {self.where})"


class Manager:
    """Keeps arrays within `budget` bytes of device memory: `"2GiB"`, `"50%"` of the device's memory, or a number.

    Room is made before memory is allocated, by moving arrays out that the program does not refer to: those not used for
    longest (`policy="lru"`), the oldest (`"fifo"`) or the largest (`"size"`) first. They go to host memory
    (`spill="host"`), pinned where the backend has it, or to files (`"disk"`) in a temporary directory below
    `directory`; `"auto"` is the host's memory for an accelerator and the disk for a CPU, whose memory is the host's.
    What is sharded over several devices counts with what all its shards take. Safe to use from several threads.

    >>> import jax.numpy as jnp
    >>> with Manager(budget="20KiB", spill="disk") as manager:
    ...     handles = [manager.put(jnp.full((1024,), i, jnp.float32)) for i in range(8)]  # 32 KiB in all
    ...     print([handle.where for handle in handles])
    ...     print(float(handles[0].get()[0]), manager.used)
    ['disk', 'disk', 'disk', 'device', 'device', 'device', 'device', 'device']
    0.0 20480

    Raises:
        SizeError: for a budget that is none.
        ZenithError: for another policy or spill, or a share of a device that does not tell its memory.
    """

    def __init__(
        self,
        budget: str | int | Budget,
        policy: Policy = "lru",
        spill: Literal["auto", "host", "disk"] = "auto",
        *,
        device: jax.Device | None = None,
        directory: str | os.PathLike[str] | None = None,
    ):
        if policy not in _RANKS:
            raise ZenithError(f"policy is one of {', '.join(get_args(Policy))}, not {policy!r}")
        if spill not in ("auto", "host", "disk"):
            raise ZenithError(f"spill is one of auto, host, disk, not {spill!r}")
        self._device: Any = device or jax.devices()[0]
        parsed = Budget.parse(budget)
        self.budget = parsed.of(_memory_of(self._device) if parsed.share is not None else 0)
        self.policy = policy
        self._clock = itertools.count()
        self._rank = _RANKS[policy]
        to_disk = spill == "disk" or (spill == "auto" and self._device.platform == "cpu")
        self._spill: Spill = Disk(directory) if to_disk else Host()
        self._handles: weakref.WeakSet[Handle] = weakref.WeakSet()
        # Every array that counts: those in handles, and those that the program got and still refers to.
        self._tracked: dict[int, _Tracked] = {}
        self._pool = Pool()
        self._reserved = 0
        self._counts = Counter(hits=0, misses=0, evictions=0, prefetches=0, reused=0)
        self._counting = threading.Lock()
        self._peak = 0
        self._lock = threading.RLock()
        # Allocations and prefetches that have their room and are not done; `_settled` says when one is.
        self._in_flight = 0
        self._settled = threading.Condition(self._lock)
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    @property
    def used(self) -> int:
        """Bytes on the device: of arrays in handles, of arrays that came from them and are still referred to, of
        buffers in the pool. What died, was deleted or donated does not count.
        """
        with self._lock:
            for key, tracked in list(self._tracked.items()):
                array = tracked.array()
                if array is None or array.is_deleted():
                    del self._tracked[key]
            return self._reserved + sum(tracked.nbytes for tracked in self._tracked.values())

    def put(self, array: ArrayLike) -> Handle:
        """Take an array into care. For a NumPy array room is made before it is copied to the device; for a jax.Array,
        which has its memory already, others go. The same jax.Array put again has the same handle.

        Raises:
            BudgetExceeded: if it does not fit, whatever is moved out.
            ZenithError: for a tracer, for an array of which other processes have parts, or when closed.
        """
        self._check_open()
        if not isinstance(array, jax.Array):
            content = np.asarray(array)
            size = math.prod(content.shape) * jax.dtypes.canonicalize_dtype(content.dtype).itemsize
            return self._adopt(self._allocate(size, lambda: jax.device_put(content, self._device)))
        if isinstance(array, jax.core.Tracer):
            raise ZenithError("a Manager keeps arrays, not tracers: put what jit, grad or vmap return, outside of them")
        if array.is_deleted():
            raise ZenithError(f"this array of shape {array.shape} was deleted or donated; put its successor")
        if not array.is_fully_addressable:
            raise ZenithError("other processes have parts of this array; put what array.addressable_shards hold")
        with self._lock:
            tracked = self._tracked.get(id(array))
            if tracked is None or tracked.array() is not array:
                self._make_room(bytes_of(array))
            else:
                known = tracked.handle()
                if known is not None and known._array is array:
                    return known
            return self._adopt(array)

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike = jnp.float32) -> Handle:
        """A new array of zeros, in the buffer of a freed one of the same kind if there is one.

        Raises:
            BudgetExceeded: if it does not fit, before anything is allocated.
        """
        self._check_open()
        dims = (shape,) if isinstance(shape, int) else tuple(shape)
        type_ = jax.dtypes.canonicalize_dtype(dtype)
        with self._lock:
            array = self._pool.take(dims, type_, jax.sharding.SingleDeviceSharding(self._device))
        if array is None:
            size = math.prod(dims) * type_.itemsize
            array = self._allocate(size, lambda: jnp.zeros(dims, type_, device=self._device))
        else:
            self._count("reused")
        return self._adopt(array, poolable=True)

    def make_room(self, size: str | SupportsIndex) -> None:
        """Move arrays out until `size` bytes are free, for what the program is about to compute.

        >>> import jax.numpy as jnp
        >>> manager = Manager("8KiB")
        >>> handle = manager.put(jnp.zeros((1024,)))
        >>> manager.make_room("6KiB")
        >>> handle.where, manager.used
        ('disk', 0)

        Raises:
            BudgetExceeded: if that many cannot be made free.
        """
        self._check_open()
        with self._lock:
            self._make_room(parse_bytes(size))

    def stats(self) -> Stats:
        """What the manager has and what it did."""
        with self._lock:
            used = self.used
            handles = list(self._handles)
            saved = [handle._saved for handle in handles if handle._saved is not None]
            away = sum(handle.where in ("host", "disk") for handle in handles)
            return Stats(
                budget=self.budget,
                used=used,
                peak=self._peak,
                pooled=self._pool.nbytes,
                host=sum(each.nbytes for each in saved if each.where == "host"),
                disk=sum(each.nbytes for each in saved if each.where == "disk"),
                resident=sum(handle.where == "device" for handle in handles),
                spilled=away,
                **self._counts,
            )

    def close(self) -> None:
        """Let go of all arrays and remove all files. Arrays that `get` returned stay what they are."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(cancel_futures=True)
        with self._lock:
            for handle in list(self._handles):
                handle._array = handle._saved = None
            self._pool.drop()
            if isinstance(self._spill, Disk):
                self._spill.close()

    def __enter__(self) -> Manager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What handles ask for. A handle's lock is taken before the manager's and never waited for inside of it.

    def _get(self, handle: Handle) -> jax.Array:
        with handle._lock:
            self._check_open()
            handle._used = next(self._clock)
            array = handle._array
            if array is not None and not array.is_deleted():
                self._count("hits")
                return array
            if handle._saved is None:
                raise ZenithError(
                    f"{handle!r}: this array was freed, deleted or donated to a computation; put it again"
                )
            self._count("misses")
            return self._allocate(handle.nbytes, handle._saved.load, handle)

    def _prefetch(self, handle: Handle) -> Future[None]:
        with self._lock:
            self._check_open()
            if self._threads is None:
                self._threads = ThreadPoolExecutor(1, "zenith-memory")
            return self._threads.submit(self._fetch_if_free, weakref.ref(handle))

    def _fetch_if_free(self, reference: weakref.ref[Handle]) -> None:
        handle = reference()
        if handle is None:
            return
        with handle._lock, self._flight():
            with self._lock:
                saved = handle._saved
                if handle._array is not None or saved is None or self.used + handle.nbytes > self.budget:
                    return
                self._reserved += handle.nbytes
            handle._used = next(self._clock)
            self._fill(handle.nbytes, saved.load, handle)
            self._count("prefetches")

    def _free(self, handle: Handle) -> None:
        with handle._lock, self._lock:
            array, handle._array, handle._saved = handle._array, None, None
            if array is None or array.is_deleted() or not handle._poolable or self._closed:
                return
            # One reference here, one for the argument.
            if sys.getrefcount(array) <= 2:
                self._pool.put(array)

    # Room.

    def _allocate(self, size: int, make: Callable[[], jax.Array], handle: Handle | None = None) -> jax.Array:
        """What `make` makes, of `size` bytes, once there is room for it."""
        with self._lock:
            self._make_room(size)
            self._reserved += size
            self._in_flight += 1
        try:
            return self._fill(size, make, handle)
        finally:
            self._land()

    def _fill(self, size: int, make: Callable[[], jax.Array], handle: Handle | None) -> jax.Array:
        """What `make` makes, in the room reserved for it; `handle` had it elsewhere."""
        array = None
        try:
            array = _allocated(make)
            return array
        finally:
            with self._lock:
                self._reserved -= size
                if array is not None:
                    self._track(array, handle)
                if array is not None and handle is not None:
                    handle._array = array
                    if handle._saved is not None and handle._saved.where == "host":
                        handle._saved = None  # a file costs little, and spares writing it again

    @contextlib.contextmanager
    def _flight(self) -> Iterator[None]:
        with self._lock:
            self._in_flight += 1
        try:
            yield
        finally:
            self._land()

    def _land(self) -> None:
        with self._lock:
            self._in_flight -= 1
            self._settled.notify_all()

    def _make_room(self, size: int) -> None:
        """Until `size` bytes are free, or nothing that could be done is left. Needs the lock, and lets it go while
        other threads bring something that they may not hold on to.
        """
        if self.used + size > self.budget:
            self._pool.drop()
        last_try = False
        while (missing := self.used + size - self.budget) > 0:
            if size <= self.budget and self._evict_some(missing):
                continue
            if last_try or size > self.budget:
                raise BudgetExceeded(size, self.used, self._held(), self.budget)
            if self._in_flight:
                self._settled.wait()
            else:
                # Arrays in cycles are dead and still there; another thread may have looked at one just now.
                gc.collect()
                last_try = True

    def _evict_some(self, missing: int) -> bool:
        """Move arrays out that take `missing` bytes, or all that can be; whether there was one."""
        found = False
        for handle in sorted(self._handles, key=self._rank):
            if missing <= 0:
                break
            freed = self._evict(handle)
            missing -= freed
            found |= freed > 0
        return found

    def _evict(self, handle: Handle) -> int:
        """Move an array out unless the program refers to it, or another thread is just bringing it back. Returns the
        bytes that this gives.
        """
        if not handle._movable or not handle._lock.acquire(blocking=False):
            return 0
        try:
            if handle._array is None or _is_held(handle):
                return 0
            if handle._saved is None and not handle._array.is_deleted():
                handle._saved = self._spill.save(handle._array)
            handle._array = None
            self._count("evictions")
            return handle.nbytes
        finally:
            handle._lock.release()

    def _held(self) -> int:
        """Bytes that the program refers to itself, or that cannot be moved."""
        idle = [h for h in self._handles if h._array is not None and h._movable and not _is_held(h)]
        return self.used - sum(handle.nbytes for handle in idle)

    def _adopt(self, array: jax.Array, poolable: bool = False) -> Handle:
        with self._lock:
            handle = Handle(self, array, poolable)
            self._handles.add(handle)
            self._track(array, handle)
            return handle

    def _track(self, array: jax.Array, handle: Handle | None) -> None:
        owner = weakref.ref(handle) if handle is not None else _nobody
        self._tracked[id(array)] = _Tracked(weakref.ref(array), bytes_of(array), owner)
        self._peak = max(self._peak, self.used)

    def _count(self, name: str) -> None:
        with self._counting:
            self._counts[name] += 1

    def _check_open(self) -> None:
        if self._closed:
            raise ZenithError("this Manager is closed; its arrays are gone")


class _Tracked(NamedTuple):
    array: weakref.ref[jax.Array]
    nbytes: int
    handle: Callable[[], Handle | None]


def _nobody() -> None:
    return None


_RANKS: Mapping[str, Callable[[Handle], Any]] = {
    "lru": lambda handle: handle._used,
    "fifo": lambda handle: handle._made,
    "size": lambda handle: (-handle.nbytes, handle._used),
}


def bytes_of(array: jax.Array) -> int:
    """Bytes of the parts of `array` on all devices of this process together; copies count."""
    return sum(shard.data.nbytes for shard in array.addressable_shards)


def _is_held(handle: Handle) -> bool:
    """Whether anyone but the handle refers to its array. Two references are the handle's and the argument's."""
    return sys.getrefcount(handle._array) > 2


def _allocated(make: Callable[[], jax.Array]) -> jax.Array:
    """What `make` makes.

    Raises:
        ZenithError: if the device has no memory left, whatever the budget says.
    """
    try:
        return make().block_until_ready()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ZenithError(
            f"the device is out of memory although the budget is not: lower the budget by what else uses it ({error})"
        ) from None


def _memory_of(device: Any) -> int:
    """Bytes of the device's memory that this process may use."""
    stats: Mapping[str, int] = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    if device.platform == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    raise ZenithError(f"{device} does not say how much memory it has; give the budget in bytes, as in 2GiB")
