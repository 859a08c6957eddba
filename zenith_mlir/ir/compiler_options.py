"""Options of XLA:CPU that a module cannot do without, carried by the module itself.

They stand in an attribute of the builtin.module, so passes, text, bytecode and caches keep them with the program::

    module @jit_step attributes {zenith.cpu_compiler_options = {xla_disable_hlo_passes = "cse_barrier_expander"}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlib.mlir import ir

__all__ = ["KEEP_BARRIERS", "LATE_CONVERSIONS", "NARROW_PRODUCTS", "apply", "merge", "require", "required", "withdraw"]

ATTRIBUTE = "zenith.cpu_compiler_options"

# XLA:CPU removes every optimization_barrier before its last common subexpression elimination, which then finds that
# what is computed again has been computed before. Without that pass barriers stay until buffers are assigned. The
# second pass makes one kernel of a small loop, and XLA aborts the process if it holds a barrier (jaxlib 0.10 to 0.12).
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander,small-while-loop-hoisting"}

# XLA:CPU leaves products of bfloat16 with results in float32 to a library (YNNPACK) where that takes their layout, and
# widens the operands of all others. Transposes that are folded into products only after that change the layout, and the
# run ends in "Unsupported element type for DotThunk::Execute" (jaxlib 0.10 to 0.12). Without it all are widened.
NARROW_PRODUCTS = {"xla_cpu_experimental_ynn_fusion_type": ""}

# XLA:CPU runs what is ready as early as it can, so that all weights of a program are converted before the first product
# and wait. The order that saves memory computes early what stands behind a barrier.
LATE_CONVERSIONS = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

# Options that are lists: their items are united. Of any other option one value has to win.
_LISTS = frozenset({"xla_disable_hlo_passes"})


def require(module: ir.Module, options: Mapping[str, str] = KEEP_BARRIERS) -> None:
    """Record that XLA:CPU has to compile `module` with `options`, on top of those recorded before."""
    with module.context:
        texts: dict[str, ir.Attribute] = {
            name: ir.StringAttr.get(value) for name, value in merge(options, required(module)).items()
        }
        module.operation.attributes[ATTRIBUTE] = ir.DictAttr.get(texts)


def withdraw(module: ir.Module, options: Mapping[str, str]) -> None:
    """Take back what `require` recorded of `options`."""
    left = {name: value for name, value in required(module).items() if options.get(name) != value}
    if ATTRIBUTE in module.operation.attributes:
        del module.operation.attributes[ATTRIBUTE]
    if left:
        require(module, left)


def required(module: ir.Module) -> dict[str, str]:
    """The options that were recorded; none for most modules."""
    attributes = module.operation.attributes
    if ATTRIBUTE not in attributes:
        return {}
    recorded: Any = attributes[ATTRIBUTE]
    return {recorded[i].name: recorded[i].attr.value for i in range(len(recorded))}


def merge(options: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` completed by `options`: lists are united, any other option that is given stays as it is."""
    united = {name: _united(given[name], options[name]) for name in options if name in _LISTS and name in given}
    return {**options, **given, **united}


def _united(*lists: str) -> str:
    return ",".join(dict.fromkeys(item for text in lists for item in text.split(",") if item))


def apply(module: ir.Module, platform: str, compile_options: Any) -> None:
    """Complete `compile_options`, an XLA `CompileOptions`, by what `module` requires if `platform` is the CPU.

    Options given to `compile(compiler_options=...)` take the place of those in XLA_FLAGS, here as everywhere.
    """
    options = required(module)
    if platform != "cpu" or not options:
        return
    flags = compile_options.executable_build_options.debug_options
    given = {name: getattr(flags, name) for name in _LISTS & options.keys()} | dict(
        compile_options.env_option_overrides
    )
    compile_options.env_option_overrides = list(merge(options, given).items())
