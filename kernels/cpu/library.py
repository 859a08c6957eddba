"""Finding the compiled kernels, loading them and making them known to XLA."""

import contextlib
import ctypes
import functools
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

NAME = "libzenith_cpu.so"

#: Custom-call targets, which are also the symbols of their handlers.
TARGETS = (
    "zenith_attention",
    "zenith_attention_vjp",
    "zenith_activation",
    "zenith_activation_vjp",
    "zenith_swiglu",
    "zenith_swiglu_vjp",
    "zenith_rotary",
    "zenith_cross_entropy",
    "zenith_cross_entropy_vjp",
    "zenith_norm",
    "zenith_norm_vjp",
    "zenith_softmax",
    "zenith_softmax_vjp",
    "zenith_matmul",
)


class KernelLibraryMissing(ImportError):
    """The compiled CPU kernels were not found, or the file found is not them."""


def candidates() -> Iterator[Path]:
    """Where the library may be, in the order it is looked for.

    0. the file that the environment variable ZENITH_CPU_LIBRARY names, and nowhere else (a build with sanitizers, say);
    1. beside this package's files, where installing puts it (an editable install adds its folder to `__path__`);
    2. `build/` of the checkout this file is in, where `cmake -B build && cmake --build build` puts it;
    3. in an installed zenith_mlir that the checkout hides, as when Python is started in the checkout.
    """
    import zenith_mlir.kernels.cpu as package

    if (given := os.environ.get("ZENITH_CPU_LIBRARY")) is not None:
        yield Path(given)
        return
    for folder in package.__path__:
        yield Path(folder) / NAME
    yield Path(__file__).resolve().parents[2] / "build" / NAME
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        yield Path(str(importlib.metadata.distribution("zenith_mlir").locate_file(f"zenith_mlir/kernels/cpu/{NAME}")))


@functools.cache
def load() -> ctypes.CDLL:
    """The library, loaded once.

    Raises:
      KernelLibraryMissing: it is nowhere `candidates` looks, or cannot be loaded.
    """
    looked = list(dict.fromkeys(candidates()))
    found = next((path for path in looked if path.is_file()), None)
    if found is None:
        places = "".join(f"\n  {path}" for path in looked)
        raise KernelLibraryMissing(
            f"the CPU kernels are not built: no {NAME} in any of{places}\n"
            "Install zenith_mlir (pip install .), or in a checkout run: cmake -B build && cmake --build build"
        )
    try:
        return ctypes.CDLL(str(found))
    except OSError as error:
        raise KernelLibraryMissing(
            f"the CPU kernels cannot be loaded: {error}\nBuild them again: pip install ."
        ) from error


@functools.cache
def register() -> None:
    """Register every kernel with XLA for the platform cpu. Later calls do nothing.

    Two threads may both get here: XLA takes the same handler under the same name twice.

    Raises:
      KernelLibraryMissing: the kernels are not built.
    """
    import jax

    library = load()
    for target in TARGETS:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")


def instruction_set() -> str:
    """What the kernels run on: "amx", "avx512bf16", "avx512", "avx2" or "portable".

    The widest this machine has, or a narrower one asked for by the environment variable ZENITH_CPU_ISA before the first
    kernel ran.
    """
    function = load().zenith_cpu_isa
    function.restype = ctypes.c_char_p
    name: bytes = function()
    return name.decode()


def peak(dtype: str, rounds: int) -> float:
    """Multiplies and adds in registers alone for `rounds` rounds, with the fastest unit for "float32" or "bfloat16".

    Returns: the floating-point operations done; 0 if the instruction set has no products of bfloat16.
    """
    function = load().zenith_cpu_peak
    function.argtypes, function.restype = [ctypes.c_int, ctypes.c_int64], ctypes.c_double
    done: float = function(dtype == "bfloat16", rounds)
    return done
