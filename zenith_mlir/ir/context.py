"""One MLIR context with every dialect JAX uses, made without importing jax."""

from __future__ import annotations

import functools

# The extension modules and not `jaxlib.mlir.dialects`: the Python wrappers of the dialects double the import
# time.
import jaxlib.mlir.dialects.sdy  # noqa: F401  before _sdy, or on jaxlib 0.12 its wrapper misses DimMappingAttr
from jaxlib.mlir import ir
from jaxlib.mlir._mlir_libs import _chlo, _jax_mlir_ext, _mlirHlo, _sdy, _sdyMpmd, _stablehlo

__all__ = ["make_context", "register_native_passes"]


class _Context(ir.Context):
    """jaxlib's context without the loading of every dialect linked into jaxlib (what JAX's own class does
    too).
    """

    def __init__(self) -> None:
        super(ir.Context, self).__init__()


def make_context() -> ir.Context:
    """A fresh context that knows the dialects of a JAX module and the native passes."""
    register_native_passes()
    context = _Context()
    context.append_dialect_registry(_upstream_dialects())
    context.load_all_available_dialects()
    # Shared, and not switched off: the uniquing of types and attributes takes its locks only with threads on.
    context.set_thread_pool(_thread_pool())
    _stablehlo.register_dialect(context)
    _chlo.register_dialect(context)
    _mlirHlo.register_mhlo_dialect(context)
    _sdy.register_dialect(context)
    _sdyMpmd.register_dialect(context)
    return context


@functools.cache
def register_native_passes() -> None:
    """Make the passes of StableHLO and MHLO known to the pass manager, once a process."""
    _stablehlo.register_stablehlo_passes()
    _mlirHlo.register_mhlo_passes()


@functools.cache
def _upstream_dialects() -> ir.DialectRegistry:
    registry = ir.DialectRegistry()
    _jax_mlir_ext.register_dialects(registry)
    return registry


@functools.cache
def _thread_pool() -> ir.ThreadPool:
    return ir.ThreadPool()
