"""Inlining of function bodies: jaxlib's native `inline` pass does nothing, its `inlined_func_call` does the cloning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jaxlib.mlir import ir

# Private to jaxlib: the only cloning of a function body into another place that the bindings offer.
from jaxlib.mlir._mlir_libs._jax_mlir_ext import inlined_func_call

from zenith_mlir.ir.facts import walk_named
from zenith_mlir.ir.symbols import callee, drop_unused_private_functions, functions, is_private


def inline_body(func: ir.Operation, call: ir.Operation) -> list[ir.Value]:
    """Replace `call` by the body of `func`; operands and results correspond in order.

    `func` may belong to another module of the same context. Returns what took the place of the results.
    """
    with ir.InsertionPoint(call), call.location:
        results = list(inlined_func_call(func, list(call.operands), call.location))
    replace_op(call, results)
    return results


def replace_op(op: ir.Operation, values: Sequence[ir.Value]) -> None:
    """Let every user of `op`'s results use `values`, then erase `op`."""
    for old, new in zip(op.results, values, strict=True):
        old.replace_all_uses_with(new)
    op.erase()


def inline_all_calls(module: ir.Operation) -> int:
    """Inline every call of a private, non-recursive function; returns how many calls were inlined.

    A call or callee that carries attributes of its own (`mhlo.frontend_attributes`, `no_inline`, ...) stays: somebody
    asked for that function to be a function.
    """
    table = functions(module)
    inlinable = {name for name, func in table.items() if is_private(func) and not _is_marked(func)}
    inlinable -= _recursive(table)
    count = 0
    for func in list(_callees_first(table)):
        for call in walk_named(func, "func.call"):
            name = callee(call)
            if name in inlinable and len(call.attributes) == 1:
                inline_body(table[name], call)
                count += 1
    drop_unused_private_functions(module)
    return count


_PLAIN_FUNCTION_ATTRIBUTES = {"sym_name", "sym_visibility", "function_type", "arg_attrs", "res_attrs"}


def _is_marked(func: ir.Operation) -> bool:
    names = {named if isinstance(named, str) else named.name for named in func.attributes}
    return bool(names - _PLAIN_FUNCTION_ATTRIBUTES) or not func.regions[0].blocks


def _calls(func: ir.Operation, table: dict[str, ir.Operation]) -> list[str]:
    return [name for call in walk_named(func, "func.call") if (name := callee(call)) in table]


def _callees_first(table: dict[str, ir.Operation]) -> Iterator[ir.Operation]:
    graph = {name: _calls(func, table) for name, func in table.items()}
    done: set[str] = set()
    for root in graph:
        stack: list[tuple[str, bool]] = [(root, False)]
        while stack:
            name, expanded = stack.pop()
            if expanded:
                yield table[name]
            elif name not in done:
                done.add(name)
                stack.append((name, True))
                stack.extend((callee, False) for callee in graph[name])


def _recursive(table: dict[str, ir.Operation]) -> set[str]:
    """Names of functions that can reach themselves."""
    graph = {name: set(_calls(func, table)) for name, func in table.items()}
    found = set()
    for name in graph:
        reached: set[str] = set()
        frontier = set(graph[name])
        while frontier:
            reached |= frontier
            frontier = set().union(*(graph[n] for n in frontier)) - reached
        if name in reached:
            found.add(name)
    return found
