"""Constants reach the operations that use them: through loops that carry them along, and past barriers.

JAX hoists what does not vary out of a scan: a causal mask or a scale arrives in the loop body as one more carried
value, and under jax.checkpoint behind an optimization_barrier, which is there to keep recomputation apart. A value made
of constants alone needs neither.
"""

from __future__ import annotations

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op, walk_named
from zenith_mlir.ir.loops import Loop, capture_invariants, drop_unused, merge_repeated

# Deep enough for a mask of several conditions, each from iotas.
_MAX_DEPTH = 32
_PURE = frozenset(
    f"stablehlo.{name}"
    for name in (
        "constant", "iota", "broadcast_in_dim", "reshape", "transpose", "slice", "convert", "compare", "select",
        "add", "subtract", "multiply", "divide", "maximum", "minimum", "negate", "abs", "sqrt", "rsqrt",
        "and", "or", "xor", "not",
    )
)  # fmt: skip


def capture_constants(module: ir.Operation) -> int:
    """Let users of constants carried by loops or passed by barriers use the constants; returns how many were."""
    known: dict[ir.Value, bool] = {}
    count = 0
    for op in walk_named(module, "stablehlo.while", "stablehlo.optimization_barrier"):
        of_op = _through_loop if op.name == "stablehlo.while" else _past_barrier
        count += of_op(op, known)
    return count


def merge_carried(module: ir.Operation) -> int:
    """Values that a loop carries along twice, unchanged, are carried once; returns how many were."""
    count = 0
    for op in walk_named(module, "stablehlo.while"):
        loop = Loop(op)
        merged = merge_repeated(loop)
        if merged:
            drop_unused(loop)
        count += merged
    return count


def _through_loop(op: ir.Operation, known: dict[ir.Value, bool]) -> int:
    """What is captured is carried no longer."""
    loop = Loop(op)
    constants = [i for i, init in enumerate(loop.operands) if loop.is_invariant(i) and _is_constant(init, known, 0)]
    if constants:
        capture_invariants(loop, constants)
        drop_unused(loop)
    return len(constants)


def _past_barrier(barrier: ir.Operation, known: dict[ir.Value, bool]) -> int:
    constants = [i for i, value in enumerate(barrier.operands) if _is_constant(value, known, 0)]
    for i in constants:
        barrier.results[i].replace_all_uses_with(barrier.operands[i])
    return len(constants)


def _is_constant(value: ir.Value, known: dict[ir.Value, bool], depth: int) -> bool:
    """Whether only constants and iotas lead to `value`."""
    if value not in known:
        op = defining_op(value)
        if op is None or op.name not in _PURE or depth > _MAX_DEPTH:
            known[value] = False
        else:
            known[value] = all(_is_constant(operand, known, depth + 1) for operand in op.operands)
    return known[value]
