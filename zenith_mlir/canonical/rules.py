"""Running a table of rules to a fixed point on jaxlib's native greedy driver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from jaxlib.mlir import ir

# The greedy driver has no Python wrapper of its own; it is a submodule of the extension.
from jaxlib.mlir._mlir_libs._mlir import rewrite as native

Rule = Callable[[ir.Operation], Sequence[ir.Value] | None]


# Somebody's word on this very operation: where it runs, how it is sharded. A rewritten operation would lose it.
MARKS = ("mhlo.frontend_attributes", "mhlo.sharding", "sdy.sharding")


def rewrite(root: ir.Operation, rules: Mapping[str, Sequence[Rule]]) -> Counter[str]:
    """Apply `rules` (by operation name) below `root` until none fires. Returns how often each rule fired, by its
    name.
    """
    fired: Counter[str] = Counter()
    patterns = native.RewritePatternSet()
    for name, of_op in rules.items():
        patterns.add(name, _pattern(of_op, fired))
    native.apply_patterns_and_fold_greedily(root, patterns.freeze())
    return fired


def _pattern(rules: Sequence[Rule], fired: Counter[str]) -> Callable[[ir.OpView, native.PatternRewriter], bool]:
    def apply(view: ir.OpView, rewriter: native.PatternRewriter) -> bool:
        op = view.operation
        if any(name in op.attributes for name in MARKS):
            return True
        with rewriter.ip, op.location:
            for rule in rules:
                values = rule(op)
                if values is not None:
                    fired[rule.__name__] += 1
                    rewriter.replace_op(op, list(values))
                    return False  # the driver reads a falsy value as "matched"
        return True

    return apply
