"""cast-precision: products and what lies between them in bfloat16 or float16, everything else in float32."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.context import PassContext
from zenith_mlir.ir.compiler_options import LATE_CONVERSIONS, NARROW_PRODUCTS, require
from zenith_mlir.ir.composites import decomposition_name
from zenith_mlir.ir.facts import element_type, walk_named
from zenith_mlir.ir.symbols import callee, functions, is_private
from zenith_mlir.module import Module
from zenith_mlir.precision.cast.colouring import Colouring
from zenith_mlir.precision.cast.composites import adapt_decompositions
from zenith_mlir.precision.cast.graph import Graph, is_wide
from zenith_mlir.precision.cast.policy import CastPolicy, Dtype
from zenith_mlir.precision.cast.remarks import say_casts, say_counts, say_refusals, say_rules
from zenith_mlir.precision.cast.rewrite import apply, drop_identities, update_signature
from zenith_mlir.registry import Pass, option, register


@register("cast-precision")
@dataclass(frozen=True)
class CastPrecision(Pass):
    """Multiply in bfloat16 or float16, and keep in 16 bits what lies between products.

    Products (dots, convolutions, attention) take operands of 16 bits and give float32. Elementwise operations on the
    way from one product to the next have 16 bits, unless they work on what is made of denied operations: exponentials,
    logarithms, powers, roots, sums, norms, losses. Those are float32, as are the program's arguments and results, what
    updates parameters, and sums that grow in loops. What only moves numbers has the type of its neighbours. Values that
    a loop carries, branches return or calls pass have one type throughout.

    `policy` is a preset (default; conservative: products alone; aggressive: also those of precision HIGHEST), and may
    go on with CLASS:PATTERN, a class of allow, infer, clear, deny and a glob over the name of an operation, its
    file:line or the names in its location. `allow` and `deny` are lists of such patterns.

    In float16, constants beyond its range keep what they meet in float32; gradients need a loss scale
    (zenith.precision). Works before or after raising: composites get operands of 16 bits and their decompositions
    convert. Running it twice changes nothing.

    What XLA makes of it: with xla_allow_excess_precision, its default, it leaves out roundings that float32 follows, on
    any target; `compiler_options={"xla_allow_excess_precision": False}` rounds everywhere. XLA:CPU widens the operands
    of products of 16 bits and computes elementwise in float32, so that 16 bits save memory there and lower-kernels
    saves time; it cannot run some products of bfloat16 by its library, and the module carries the option that leaves
    that out. GPUs multiply 16 bits in their tensor cores.
    """

    compute: Dtype = option(Dtype("bfloat16"), "bf16 or f16: what products are computed in")
    policy: CastPolicy = option(CastPolicy(), "default, conservative or aggressive, and CLASS:PATTERN, by commas")
    allow: tuple[str, ...] = option((), "patterns of operations to compute in 16 bits")
    deny: tuple[str, ...] = option((), "patterns of operations to leave in float32")

    def run(self, module: Module, ctx: PassContext) -> None:
        policy = self.policy.with_rules(self.allow, self.deny)
        with module.context, ir.Location.unknown():
            outside = self._colouring(module.operation, _program(module.operation), policy)
            say_casts(outside, str(self.compute), ctx)
            say_counts(outside, ctx)
            apply(outside)
            adapt_decompositions(module.operation)
            inside = self._colouring(module.operation, _decompositions(module.operation), policy)
            say_refusals(inside, ctx)
            apply(inside)
            for func in functions(module.operation).values():
                drop_identities(func)
                update_signature(func)
            say_rules(module.operation, policy, [outside.graph, inside.graph], ctx)
        if _has_narrow_products(module.operation):
            require(module.ir, NARROW_PRODUCTS)
        if _narrows(module.operation) and not walk_named(module.operation, "stablehlo.optimization_barrier"):
            require(module.ir, LATE_CONVERSIONS)

    def _colouring(self, module: ir.Operation, names: Collection[str], policy: CastPolicy) -> Colouring:
        """What is decided for the functions called `names`, together."""
        table = functions(module)
        entries = [table[name].regions[0].blocks[0] for name in names if _is_entry(table[name])]
        arguments = [argument for block in entries for argument in block.arguments]
        return Colouring(Graph.of(module, names, policy), policy, self.compute, self.compute.type(), arguments)


def _is_entry(func: ir.Operation) -> bool:
    return not is_private(func) and bool(func.regions[0].blocks)


def _program(module: ir.Operation) -> list[str]:
    """The functions that are no decompositions, nor called by any."""
    inside = set(_decompositions(module)) | _called(module, _decompositions(module))
    return [name for name in functions(module) if name not in inside]


def _has_narrow_products(module: ir.Operation) -> bool:
    """Whether products of bfloat16 have results in float32."""
    products = walk_named(module, "stablehlo.dot_general")
    return any(str(element_type(op.operands[0])) == "bf16" and is_wide(op.results[0]) for op in products)


def _narrows(module: ir.Operation) -> bool:
    """Whether something is converted from float32 to 16 bits."""
    converts = walk_named(module, "stablehlo.convert")
    return any(is_wide(op.operands[0]) and str(element_type(op.results[0])) in ("bf16", "f16") for op in converts)


def _decompositions(module: ir.Operation) -> list[str]:
    named = {decomposition_name(op) for op in walk_named(module, "stablehlo.composite")}
    return [name for name in functions(module) if name in named]


def _called(module: ir.Operation, names: Collection[str]) -> set[str]:
    """The functions that those called `names` call, and so on."""
    table, found, frontier = functions(module), set(), list(names)
    while frontier:
        for call in walk_named(table[frontier.pop()], "func.call"):
            name = callee(call)
            if name in table and name not in found:
                found.add(name)
                frontier.append(name)
    return found
