"""The CPU kernels: C++ behind XLA's foreign function interface, one operation a file."""

from zenith_mlir.kernels.cpu.library import KernelLibraryMissing, instruction_set, register

__all__ = ["KernelLibraryMissing", "instruction_set", "register"]
