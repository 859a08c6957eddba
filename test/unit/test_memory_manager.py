"""Arrays within a budget."""

import doctest
import gc
import os
import random
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import memory_report
import numpy as np
import pytest

from zenith_mlir.errors import ZenithError
from zenith_mlir.memory import manager as manager_module
from zenith_mlir.memory import store as store_module
from zenith_mlir.memory.manager import BudgetExceeded, Manager
from zenith_mlir.memory.spill import Disk, SpillError
from zenith_mlir.memory.store import ActivationStore

KIB = 1024


def kib(value: float, n: int = 1) -> jax.Array:
    """An array of `n` KiB."""
    return jnp.full((256 * n,), value, jnp.float32)


def places(handles: Any) -> str:
    return " ".join(handle.where for handle in handles)


ARRAYS = {
    "float32": lambda: jnp.arange(12.0).reshape(3, 4),
    "bfloat16": lambda: jnp.arange(12, dtype=jnp.bfloat16).reshape(3, 4),
    "float8": lambda: jnp.arange(12, dtype=jnp.float8_e4m3fn),
    "int4": lambda: jnp.arange(7, dtype=jnp.int4),
    "bool": lambda: jnp.arange(6) % 2 == 0,
    "complex64": lambda: jnp.arange(4, dtype=jnp.complex64) * 1j,
    "scalar": lambda: jnp.zeros((), jnp.bfloat16) + 3,
    "nothing": lambda: jnp.zeros((0, 3)),
    "committed": lambda: jax.device_put(jnp.ones(3), jax.devices()[0]),
    "keys": lambda: jax.random.split(jax.random.key(3), 4),
    "other keys": lambda: jax.random.key(3, impl="rbg"),
}


@pytest.mark.parametrize("spill", ["host", "disk"])
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_come_back_as_they_were(kind: str, spill: Any) -> None:
    expected = ARRAYS[kind]()
    with Manager("4KiB", spill=spill) as manager:
        handle = manager.put(ARRAYS[kind]())
        manager.put(kib(0.0, 4))
        assert handle.where == (spill if handle.nbytes else "device")
        found = handle.get()
        assert (found.dtype, found.shape, found.committed) == (expected.dtype, expected.shape, expected.committed)
        numbers = jax.random.key_data if "keys" in kind else lambda array: array
        np.testing.assert_array_equal(numbers(found), numbers(expected))
        if "keys" in kind:
            assert jax.random.key_impl(found) == jax.random.key_impl(expected)


def test_weak_types_stay_where_they_are() -> None:
    with Manager("4KiB") as manager:
        handle = manager.put(jnp.asarray(2.0) * 1)
        assert handle.get().weak_type
        with pytest.raises(BudgetExceeded):
            manager.put(kib(0.0, 4))
        assert handle.where == "device"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("lru", "device disk device disk"), ("fifo", "disk disk device device"), ("size", "device device disk device")],
)
def test_policies(policy: Any, expected: str) -> None:
    with Manager("8KiB", policy) as manager:
        handles = [manager.put(kib(i, n)) for i, n in enumerate((2, 2, 3, 1))]
        handles[0].get()
        handles[2].get()
        manager.make_room("3KiB")
        assert places(handles) == expected


def test_the_budget_holds_before_memory_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    with Manager("4KiB") as manager:
        handles = [manager.put(kib(i)) for i in range(8)]
        assert manager.used == 4 * KIB
        seen = []
        device_put = jax.device_put

        def watched(content: Any, *arguments: Any) -> Any:
            # Room is made and kept for what is about to be allocated.
            seen.append(manager.used)
            return device_put(content, *arguments)

        monkeypatch.setattr(jax, "device_put", watched)
        assert float(handles[0].get()[0]) == 0.0
        manager.put(np.ones(512, np.float32))
        with pytest.raises(BudgetExceeded, match=r"5\.0 KiB do not fit"):
            manager.put(np.ones(5 * 256, np.float32))
        assert seen == [4 * KIB, 4 * KIB]
        assert manager.stats().peak == 4 * KIB


def test_what_the_program_holds_stays_and_is_said() -> None:
    with Manager("4KiB") as manager:
        handles = [manager.put(kib(i)) for i in range(4)]
        held = [handles[0].get(), handles[1].get()]
        handles[2].get()
        handles[3].get()
        # Those held were used longest ago, and moving them out would free nothing.
        manager.make_room("2KiB")
        assert places(handles) == "device device disk disk"
        with pytest.raises(BudgetExceeded, match="arrays that the program refers to") as error:
            manager.make_room("3KiB")
        assert (error.value.asked, error.value.used, error.value.held) == (3 * KIB, 2 * KIB, 2 * KIB)
        del held
        manager.make_room("3KiB")
        with pytest.raises(BudgetExceeded, match="raise the budget or split"):
            manager.empty(5 * 256)


def test_accounts_follow_deaths_deletions_and_donations() -> None:
    donate = jax.jit(lambda x: x + 1, donate_argnums=0)
    with Manager("8KiB") as manager:
        dies, deleted, donated, held = (manager.put(kib(i)) for i in range(4))
        array = held.get()
        assert manager.used == 4 * KIB
        deleted.get().delete()
        donate(donated.get()).block_until_ready()
        assert manager.used == 2 * KIB
        del dies
        assert manager.used == KIB
        held.free()
        assert (manager.used, held.where) == (KIB, "gone")
        del array
        assert manager.used == 0
        for handle in (deleted, donated, held):
            with pytest.raises(ZenithError, match="freed, deleted or donated"):
                handle.get()


def test_dead_cycles_are_collected_before_giving_up() -> None:
    with Manager("4KiB") as manager:
        gc.disable()
        try:
            cycle: list[Any] = [manager.put(kib(1.0, 4)).get()]
            cycle.append(cycle)
            del cycle
            manager.make_room("4KiB")
        finally:
            gc.enable()


def test_the_same_array_counts_once() -> None:
    with Manager("4KiB") as manager:
        array = kib(1.0, 3)
        assert manager.put(array) is manager.put(array)
        del array
        manager.make_room("4KiB")
        assert manager.used == 0


def test_files_go_with_their_handles_and_their_manager(tmp_path: Path) -> None:
    manager = Manager("1KiB", spill="disk", directory=tmp_path)
    handles = [manager.put(kib(i)) for i in range(4)]
    assert len(list(tmp_path.rglob("*.npy"))) == 3 and not list(tmp_path.rglob("*.part"))
    handles[0].get()
    # The file stays: moving the array out again costs nothing.
    assert len(list(tmp_path.rglob("*.npy"))) == 4
    handles.pop(0)
    handles[0].free()
    assert len(list(tmp_path.rglob("*.npy"))) == 2
    manager.close()
    manager.close()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZenithError, match="closed"):
        handles[0].get()
    with pytest.raises(ZenithError, match="closed"):
        manager.put(kib(1.0))
    forgotten = Manager("1KiB", spill="disk", directory=tmp_path)
    assert list(tmp_path.iterdir())
    del forgotten
    gc.collect()
    assert not list(tmp_path.iterdir())


@pytest.mark.once
def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any, *arguments: Any, **options: Any) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with Manager("2KiB", spill="disk", directory=tmp_path) as manager:
        handle = manager.put(kib(7.0))
        with monkeypatch.context() as patch:
            patch.setattr(np, "save", full)
            with pytest.raises(SpillError, match="No space left"):
                manager.make_room("2KiB")
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
        assert handle.where == "device" and float(handle.get()[0]) == 7.0
        manager.make_room("2KiB")
        next(tmp_path.rglob("*.npy")).write_bytes(b"damaged")
        with pytest.raises(SpillError, match="cannot read"):
            handle.get()
        assert manager.used == 0
    with pytest.raises(SpillError, match="cannot make a directory"):
        Disk(tmp_path / "nowhere")


@pytest.mark.once
def test_a_forked_child_leaves_the_files_alone(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    saved = disk.save(kib(1.0))
    owner = os.getpid()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: owner + 1)
        disk.close()
    assert len(list(tmp_path.rglob("*.npy"))) == 1 and saved.nbytes == KIB


def test_freed_buffers_are_used_again() -> None:
    with Manager("4KiB") as manager:
        first = manager.empty((256,), jnp.float32)
        # Not through get(), which would be asked for what it says.
        place = first.get().unsafe_buffer_pointer()
        first.free()
        assert (manager.used, manager.stats().pooled) == (KIB, KIB)
        second = manager.empty(256)
        assert second.get().unsafe_buffer_pointer() == place
        assert manager.stats().reused == 1 and manager.used == KIB
        assert not second.get().any()
        assert manager.empty(256, jnp.int32).dtype == jnp.int32
        second.free()
        # Room is made of the pool first.
        manager.make_room("4KiB")
        assert manager.used == 0
        held = manager.empty(256)
        array = held.get()
        held.free()
        assert manager.stats().pooled == 0 and not array.is_deleted()


def test_prefetching_takes_only_room_that_is_free() -> None:
    with Manager("4KiB") as manager:
        first, second = manager.put(kib(1.0, 3)), manager.put(kib(2.0, 3))
        assert places((first, second)) == "disk device"
        first.prefetch().result(60)
        assert places((first, second)) == "disk device"
        second.free()
        first.prefetch().result(60)
        assert first.where == "device" and manager.stats().prefetches == 1
        assert float(first.get()[0]) == 1.0
        second.prefetch().result(60)


def test_threads() -> None:
    """Each of four holds one array, one more is prefetched: nothing is lost, mixed up, over the budget or refused."""
    wrong: list[Any] = []
    with Manager("5KiB", spill="host") as manager:
        handles = [manager.put(kib(i)) for i in range(16)]

        def work(seed: int) -> None:
            choose = random.Random(seed)
            for _ in range(60):
                i = choose.randrange(len(handles))
                try:
                    if choose.random() < 0.2:
                        handles[i].prefetch()
                    if choose.random() < 0.1:
                        manager.put(kib(-1.0)).free()
                    value = float(handles[i].get()[0])
                except Exception as error:
                    wrong.append(error)
                    return
                if value != i or manager.used > manager.budget:
                    wrong.append((i, value, manager.used))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not wrong and not any(thread.is_alive() for thread in threads)
        stats = manager.stats()
        assert stats.peak <= manager.budget and stats.evictions > 0
        assert stats.hits + stats.misses == 4 * 60


def test_what_is_refused() -> None:
    with Manager("1KiB") as manager:
        with pytest.raises(ZenithError, match="tracers"):
            jax.jit(lambda x: manager.put(x).get())(1.0)
        gone = kib(1.0)
        gone.delete()
        with pytest.raises(ZenithError, match="deleted or donated"):
            manager.put(gone)
    for arguments, says in (
        (("lots",), "number of bytes"),
        (("1KiB", "oldest"), "policy is one of lru, fifo, size"),
        (("1KiB", "lru", "cloud"), "spill is one of"),
    ):
        with pytest.raises(ZenithError, match=says):
            Manager(*arguments)
    assert 0 < Manager("1%").budget < Manager("50%").budget


def test_a_full_device_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*arguments: Any, **options: Any) -> Any:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4096 bytes")

    with Manager("8KiB") as manager:
        monkeypatch.setattr(jnp, "zeros", exhausted)
        with pytest.raises(ZenithError, match="the device is out of memory"):
            manager.empty(256)
        assert manager.used == 0


@pytest.mark.once
def test_what_the_documentation_says() -> None:
    assert doctest.testmod(manager_module).failed == 0
    assert doctest.testmod(store_module).failed == 0


def test_a_store_keeps_trees_by_name_and_reads_ahead() -> None:
    with Manager("4KiB") as manager:
        store = ActivationStore(manager)
        for i in range(6):
            store[f"x{i}"] = {"hidden": kib(i), "layer": i}
        assert (list(store), len(store), "x3" in store) == ([f"x{i}" for i in range(6)], 6, True)
        assert manager.used == 4 * KIB
        assert store.pop("x5")["layer"] == 5
        assert [float(store.pop(f"x{i}")["hidden"][0]) for i in (4, 3, 2)] == [4.0, 3.0, 2.0]
        # x1 began to come back when x2 was read.
        assert float(store["x1"]["hidden"][0]) == 1.0
        assert manager.stats().prefetches + manager.stats().misses >= 1
        store["x1"] = 1.0
        assert (store["x1"], store.get("nobody")) == (1.0, None)
        with pytest.raises(KeyError):
            store.prefetch("nobody")
        store.clear()
        gc.collect()
        assert manager.used == 0


def test_handles_do_not_keep_arrays_that_are_elsewhere() -> None:
    with Manager("1KiB", spill="host") as manager:
        array = kib(1.0)
        handle, alive = manager.put(array), weakref.ref(array)
        del array
        manager.make_room("1KiB")
        assert handle.where == "host" and alive() is None
        assert repr(handle) == "Handle(float32[256], host)"


@pytest.mark.once
def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    memory_report.main(["--layers", "3", "--width", "16", "--rows", "64", "--budget", "8KiB"])
    printed = capsys.readouterr().out
    assert "temporaries" in printed and "1 inputs of 3 waited on disk" in printed
    assert float(printed.split()[-1]) < 1e-6


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from zenith_mlir.memory import Manager
mesh = jax.make_mesh((4,), ("x",))
split, copied = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())
for spill in ("host", "disk"):
    with Manager("8KiB", spill=spill) as manager:
        a = manager.put(jax.device_put(jnp.arange(256.0), split))
        b = manager.put(jax.device_put(jnp.arange(256.0), copied))
        assert manager.used == 5 * 1024, manager.used
        manager.make_room("8KiB")
        assert (a.where, b.where, manager.used) == (spill, spill, 0)
        assert a.get().sharding == split and b.get().sharding == copied
        np.testing.assert_array_equal(a.get(), np.arange(256.0))
"""


@pytest.mark.once
def test_sharded_arrays_count_on_all_devices_and_come_back_sharded() -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
