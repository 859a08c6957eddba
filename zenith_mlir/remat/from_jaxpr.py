"""The problem of rematerialization of a JAX function: its forward, its backward, what their values take and cost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.flat_jaxpr import Equation, FlatJaxpr, elements, flatten, nbytes
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.rates import FUNCTIONS, RATES, Rates

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

__all__ = ["STANDS_ALONE", "VIEWS", "TracedProblem", "is_elementwise", "is_fused", "problem_of", "problem_of_vjp"]

# Their result is their first operand in another shape: no memory of its own.
VIEWS = frozenset({
    "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "transpose", "stop_gradient", "copy", "copy_p",
    "name", "optimization_barrier", "bitcast_convert_type",
})  # fmt: skip
_RANDOM = frozenset({
    "random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform",
})  # fmt: skip
# Never fused, although the shapes of some look elementwise.
STANDS_ALONE = frozenset({
    "dot_general", "conv_general_dilated", "concatenate", "cumsum", "cumprod", "cummax", "cummin",
    "cumlogsumexp", "sort", "top_k", "scatter", "scatter-add", "scatter_add", "scatter_mul", "scatter_min",
    "scatter_max", "dynamic_update_slice", "scan", "while", "cond", "fft", "cholesky", "triangular_solve",
    "custom_call", "ffi_call", "pure_callback", "io_callback", "rev", "all_gather", "all_to_all", "psum",
    "ppermute", "reduce_window", "reduce_window_sum", "reduce_window_max", "select_and_scatter_add",
    "select_and_gather_add",
})  # fmt: skip
# XLA fuses a cheap equation into so many users, once into each.
_DUPLICATES = 3
# Read operands larger than their result in passing.
_READS = frozenset({
    "slice", "dynamic_slice", "gather", "split", "argmax", "argmin", "reduce",
})  # fmt: skip


@dataclass(frozen=True, eq=False)
class TracedProblem:
    """A problem and where it comes from: the equation of each node and of each step, and the nodes that carry names of
    `jax.ad_checkpoint.checkpoint_name`.
    """

    problem: Problem
    nodes: tuple[Equation, ...]
    steps: tuple[Equation, ...]
    named: dict[str, int]


def problem_of_vjp(
    f: Callable[..., Any], *args: Any, rates: Rates = RATES["cpu"], repeat_random: bool = False
) -> TracedProblem:
    """The problem of differentiating `f` at `args` in reverse mode with respect to all inexact arrays in them.

    `args` are pytrees of arrays or of anything with `shape` and `dtype`. Nothing is run.
    """
    import jax
    import jax.numpy as jnp

    leaves, tree = jax.tree.flatten(args)
    inexact = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    result = jax.eval_shape(f, *args)

    def both(cotangent: Any, leaves: list[Any]) -> Any:
        def of(varied: list[Any]) -> Any:
            rest = iter(varied)
            return f(*jax.tree.unflatten(tree, [next(rest) if v else x for v, x in zip(inexact, leaves, strict=True)]))

        out, pullback = jax.vjp(of, [x for v, x in zip(inexact, leaves, strict=True) if v])
        return out, pullback(cotangent)

    jaxpr = jax.make_jaxpr(both)(jax.tree.map(_cotangent, result), leaves)
    return problem_of(jaxpr, range(len(jax.tree.leaves(result))), rates=rates, repeat_random=repeat_random)


def _cotangent(result: Any) -> Any:
    """What stands for the cotangent of a result of this type: integers have none."""
    import jax
    import jax.numpy as jnp

    inexact = jnp.issubdtype(result.dtype, jnp.inexact)
    return result if inexact else np.zeros(result.shape, jax.dtypes.float0)


def problem_of(
    jaxpr: ClosedJaxpr, cotangents: Collection[int], *, rates: Rates = RATES["cpu"], repeat_random: bool = False
) -> TracedProblem:
    """The problem of a jaxpr that holds a forward and after it its backward, which starts with the first equation that
    reads one of the inputs at the positions `cotangents`.

    A node is an equation of the forward whose result is not a view. Each equation of the backward that reads values of
    the forward is a step. Results of the whole program have room of their own and take no bytes. An elementwise
    equation is fused into its users where these are elementwise or reductions, and one, or few and it is cheap: its
    `transient` is 0.

    Random bits run once unless `repeat_random` says that they may be drawn again from the same key, which gives the
    same bits; equations with effects always do.
    """
    return _Builder(flatten(jaxpr), frozenset(cotangents), rates, repeat_random).build()


def is_elementwise(equation: Equation) -> bool:
    """Whether each element of the result comes from one element of each operand."""
    size = elements(equation.result_types[0])
    alone = equation.name in STANDS_ALONE or equation.name in _RANDOM or len(equation.results) > 1
    return not alone and all(elements(t) <= size for t in equation.operand_types)


def _reads_in_passing(equation: Equation) -> bool:
    reduces = equation.name.startswith("reduce_") and equation.name not in STANDS_ALONE
    return reduces or equation.name in _READS or is_elementwise(equation)


def is_fused(equation: Equation, users: Sequence[Equation]) -> bool:
    """Whether XLA computes an equation inside of its users, so that its result is never in memory."""
    few = len(users) <= (1 if equation.name in FUNCTIONS else _DUPLICATES)
    return bool(users) and few and is_elementwise(equation) and all(map(_reads_in_passing, users))


class _Builder:
    """The equations that are no views, each value seen through the views to its source."""

    def __init__(self, flat: FlatJaxpr, cotangents: frozenset[int], rates: Rates, repeat_random: bool):
        self.flat = flat
        self.rates = rates
        self.repeat_random = repeat_random
        self.forward: list[Equation] = []
        self.backward: list[Equation] = []
        self.source = list(range(len(flat.types)))
        self.users: dict[int, list[Equation]] = {}
        self.names: dict[str, int] = {}
        in_backward = False
        for equation in flat.equations:
            # What follows and depends on no cotangent (weights turned around, repeated forwards) is run there too.
            in_backward = in_backward or not cotangents.isdisjoint(equation.reads)
            if equation.name in VIEWS:
                self.see_through(equation)
            elif equation.reads or equation.has_effects:
                # Others make constants.
                (self.backward if in_backward else self.forward).append(equation)
                for read in set(self.reads(equation)):
                    self.users.setdefault(read, []).append(equation)
        self.returned = {self.source[x] for x in flat.outputs if x is not None}
        self.node = {result: i for i, equation in enumerate(self.forward) for result in equation.results}

    def see_through(self, view: Equation) -> None:
        for operand, result in zip(view.operands, view.results, strict=False):
            if operand is not None:
                self.source[result] = self.source[operand]
                if view.name == "name":
                    self.names[view.params["name"]] = self.source[operand]

    def reads(self, equation: Equation) -> list[int]:
        return [self.source[x] for x in equation.reads]

    def nodes_read(self, equation: Equation) -> list[int]:
        return sorted({self.node[x] for x in self.reads(equation) if x in self.node})

    def bytes(self, equation: Equation) -> int:
        """What the results take: those that are returned have room of their own, those without users none."""
        pairs = zip(equation.results, equation.result_types, strict=True)
        return sum(nbytes(type) for x, type in pairs if x in self.users and x not in self.returned)

    def bytes_in_passing(self, equation: Equation) -> int:
        users = [user for x in equation.results for user in self.users.get(x, [])]
        return 0 if is_fused(equation, users) else self.bytes(equation)

    def repeatable(self, equation: Equation) -> bool:
        return not equation.has_effects and (self.repeat_random or equation.name not in _RANDOM)

    def live_in_backward(self) -> NDArray[np.int64]:
        """Bytes of cotangents and gradients at each equation of the backward."""
        at = {id(equation): e for e, equation in enumerate(self.backward)}
        change = np.zeros(len(self.backward) + 1, np.int64)
        for e, equation in enumerate(self.backward):
            last = max([at.get(id(user), e) for x in equation.results for user in self.users.get(x, [])], default=e)
            size = self.bytes_in_passing(equation)
            change[e] += size
            change[last + 1] -= size
        return np.cumsum(change[:-1])

    def build(self) -> TracedProblem:
        live = self.live_in_backward()
        uses = [self.nodes_read(equation) for equation in self.backward]
        ends = [e for e, nodes in enumerate(uses) if nodes]
        # What reads nothing of the forward counts as part of the next step, at the end of the last.
        starts = [0, *(e + 1 for e in ends[:-1])][: len(ends)]
        stops = [*(e + 1 for e in ends[:-1]), len(live)][: len(ends)]
        sizes = [self.bytes(equation) for equation in self.forward]
        problem = Problem.of(
            [self.rates.seconds(equation) for equation in self.forward],
            sizes,
            [self.nodes_read(equation) for equation in self.forward],
            [uses[e] for e in ends],
            transient=[self.bytes_in_passing(equation) for equation in self.forward],
            repeatable=[self.repeatable(equation) for equation in self.forward],
            backward_base=[int(live[a:b].max()) for a, b in zip(starts, stops, strict=True)],
            offload_cost=[self.rates.offload_seconds(size) for size in sizes],
            names=[_describe(equation) for equation in self.forward],
        )
        named = {name: self.node[x] for name, x in self.names.items() if x in self.node}
        return TracedProblem(problem, tuple(self.forward), tuple(self.backward[e] for e in ends), named)


def _describe(equation: Equation) -> str:
    result = equation.result_types[0].str_short() if equation.result_types else ""
    return " ".join(filter(None, (equation.name, result, equation.scope)))
