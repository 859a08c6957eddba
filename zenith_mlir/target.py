"""What a module is compiled for: a description that can be written by hand or taken from the devices present.

=====================  =======================================================================================
`cpu`                  this machine's processor
`cpu:avx2`             a named level (generic, avx2, avx512, amx, neon, sve) or features joined by `+`
`cuda`                 the first GPU present, or an sm_80 on a machine without one
`cuda:sm_90`           a GPU by its compute capability, with the memory and bandwidth usual for it
`cuda:sm_90,cudnn=91000,memory=80GiB,bandwidth=3.3TB/s`   the same with facts given
`none`                 no implementations: everything stays plain StableHLO
=====================  =======================================================================================
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from zenith_mlir.errors import TargetError, did_you_mean

__all__ = ["Target"]


@dataclasses.dataclass(frozen=True)
class Target:
    """A target. `str(target)` parses back to an equal one.

    `features`: CPU features as Linux names them ("avx2", "amx_bf16"). `arch`: "sm_90", or the CPU level
    asked for. `cudnn`: cuDNN's version as JAX counts it (91002 is 9.10.2), 0 if there is none. `memory` in
    bytes and `bandwidth` in bytes a second, 0 if unknown. `given`: the facts written by hand.
    """

    platform: str
    arch: str = ""
    features: frozenset[str] = frozenset()
    cudnn: int = 0
    memory: int = 0
    bandwidth: int = 0
    given: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    @classmethod
    def parse(cls, text: str | Target) -> Target:
        """A target from its text.

        Raises:
            TargetError: for an unknown platform, level or fact, naming the valid ones.
        """
        if isinstance(text, Target):
            return text
        head, *facts = text.strip().split(",")
        name, _, arch = head.partition(":")
        if name not in _PLATFORMS:
            known = "cpu, cpu:avx2, cuda, cuda:sm_90, none"
            raise TargetError(f"unknown target {text!r}{did_you_mean(name, _PLATFORMS)}; write one of {known}")
        if facts and name != "cuda":
            raise TargetError(f"the target {name} takes no facts, and {','.join(facts)!r} was given")
        return dataclasses.replace(_PLATFORMS[name](arch), **_parse_facts(facts), given=tuple(facts))

    @classmethod
    def host(cls) -> Target:
        """What JAX runs on here: its default backend once it is initialised, else a GPU if one can be used,
        else the CPU.
        """
        backend = _initialised_backend()
        if backend is None:
            backend = "cuda" if _cuda_wanted() and _cuda_devices() else "cpu"
        return cls.parse({"cpu": "cpu", "gpu": "cuda", "cuda": "cuda"}.get(backend, "none"))

    @property
    def compute_capability(self) -> int:
        """90 for sm_90; 0 on anything but a GPU."""
        return int(re.sub(r"\D", "", self.arch)) if self.platform == "cuda" else 0

    def has(self, *features: str) -> bool:
        """Whether the CPU has every one of `features`."""
        return self.features.issuperset(features)

    def __str__(self) -> str:
        head = f"{self.platform}:{self.arch}" if self.arch else self.platform
        return ",".join([head, *self.given])


_GENERIC: frozenset[str] = frozenset()
_AVX2 = frozenset({"avx", "avx2", "fma", "f16c"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_AMX = _AVX512 | {"avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8"}
_NEON = frozenset({"asimd"})
CPU_LEVELS: Mapping[str, frozenset[str]] = {
    "generic": _GENERIC,
    "avx2": _AVX2,
    "avx512": _AVX512,
    "amx": _AMX,
    "neon": _NEON,
    "sve": _NEON | {"sve"},
}
# Features that may be joined by + to a level.
CPU_FEATURES = frozenset().union(*CPU_LEVELS.values()) | {
    "avx512_fp16",
    "avx_vnni",
    "amx_fp16",
    "bf16",
    "i8mm",
    "sve2",
}

# Memory and bandwidth of the card most people mean by an architecture: V100, T4, A100, A10, L4, H100, B200,
# RTX 5090.
_GPUS: Mapping[int, tuple[int, int]] = {
    70: (16 << 30, 900_000_000_000),
    75: (16 << 30, 320_000_000_000),
    80: (40 << 30, 1_555_000_000_000),
    86: (24 << 30, 600_000_000_000),
    89: (24 << 30, 300_000_000_000),
    90: (80 << 30, 3_350_000_000_000),
    100: (180 << 30, 8_000_000_000_000),
    120: (32 << 30, 1_792_000_000_000),
}
_DEFAULT_GPU = "sm_80"
_DEFAULT_CUDNN = 91002  # assumed for a GPU that is described and not present


def _cpu(level: str) -> Target:
    if not level:
        return Target("cpu", features=_host_cpu_features())
    features: set[str] = set()
    for part in level.split("+"):
        if part not in CPU_LEVELS and part not in CPU_FEATURES:
            close = did_you_mean(part, [*CPU_LEVELS, *CPU_FEATURES])
            raise TargetError(f"unknown CPU level or feature {part!r}{close}; levels: {', '.join(CPU_LEVELS)}")
        features |= CPU_LEVELS.get(part, {part})
    return Target("cpu", arch=level, features=frozenset(features))


def _cuda(arch: str) -> Target:
    if not arch:
        present = _cuda_devices()
        if present:
            return dataclasses.replace(present[0], cudnn=_installed_cudnn() or 0)
        arch = _DEFAULT_GPU
    if not re.fullmatch(r"sm_\d{2,3}[af]?", arch):
        raise TargetError(f"a GPU is named by its compute capability as in cuda:sm_90, not cuda:{arch}")
    number = int(re.sub(r"\D", "", arch))
    memory, bandwidth = _GPUS.get(number) or _GPUS[max(k for k in _GPUS if k <= number or k == min(_GPUS))]
    return Target("cuda", arch=arch, cudnn=_installed_cudnn() or _DEFAULT_CUDNN, memory=memory, bandwidth=bandwidth)


def _none(arch: str) -> Target:
    if arch:
        raise TargetError(f"the target none has no variants, and none:{arch} was given")
    return Target("none")


_PLATFORMS: Mapping[str, Callable[[str], Target]] = {"cpu": _cpu, "cuda": _cuda, "none": _none}

_UNITS = {"": 1} | {p: 1000**i for i, p in enumerate("kMGT", 1)} | {p + "i": 1024**i for i, p in enumerate("KMGT", 1)}
_FACTS: Mapping[str, str] = {
    "cudnn": r"(\d+)()",
    "memory": r"([\d.]+)(|[kMGT]|[KMGT]i)B?",
    "bandwidth": r"([\d.]+)(|[kMGT])(?:B/s)?",
}


def _parse_facts(facts: list[str]) -> dict[str, Any]:
    values = {}
    for fact in facts:
        key, _, text = fact.partition("=")
        match = re.fullmatch(_FACTS[key], text) if key in _FACTS else None
        if match is None:
            raise TargetError(f"a fact about a GPU is cudnn=91000, memory=80GiB or bandwidth=3.3TB/s, not {fact!r}")
        values[key] = int(float(match[1]) * _UNITS[match[2]])
    return values


@functools.cache
def _host_cpu_features() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo") as file:
            match = re.search(r"^(?:flags|Features)\s*:(.*)$", file.read(), re.MULTILINE)
    except OSError:  # not Linux: what every machine of the kind has
        return _NEON if platform.machine() in ("arm64", "aarch64") else _GENERIC
    return frozenset(match[1].split()) & CPU_FEATURES if match else _GENERIC


@functools.cache
def _cuda_devices() -> tuple[Target, ...]:
    """The GPUs the driver shows, asked without making a context on any."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    return tuple(_cuda_device(driver, i) for i in range(count.value))


def _cuda_device(driver: ctypes.CDLL, index: int) -> Target:
    device, size = ctypes.c_int(), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
        return value.value

    major, minor, clock_khz, bus_bits = map(attribute, (75, 76, 36, 37))  # CUdevice_attribute in cuda.h
    return Target("cuda", arch=f"sm_{major}{minor}", memory=size.value, bandwidth=2 * clock_khz * 1000 * bus_bits // 8)


@functools.cache
def _installed_cudnn() -> int | None:
    """The version of the nvidia-cudnn wheel that jax would load, as 91002 for 9.10.2."""
    from importlib import metadata

    for package in ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"):
        try:
            major, minor, patch = map(int, metadata.version(package).split(".")[:3])
        except (metadata.PackageNotFoundError, ValueError):
            continue
        return major * 10000 + minor * 100 + patch
    return None


def _cuda_wanted() -> bool:
    """Whether JAX, not yet initialised, would look for a GPU."""
    from importlib.util import find_spec

    wanted = os.environ.get("JAX_PLATFORMS", "")
    if wanted and not {"cuda", "gpu"} & set(wanted.split(",")):
        return False
    return any(find_spec(plugin) for plugin in ("jax_cuda13_plugin", "jax_cuda12_plugin"))


def _initialised_backend() -> str | None:
    """`jax.default_backend()` if jax is imported; starting it here would be the user's business."""
    jax = sys.modules.get("jax")
    if jax is None or not hasattr(jax, "default_backend"):
        return None
    return str(jax.default_backend())
