"""jax.checkpoint with a budget: a solver chooses which values wait for the backward and which are computed again."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.extend.source_info_util import register_exclusion

from zenith_mlir import hook
from zenith_mlir.errors import OptionError, did_you_mean
from zenith_mlir.memory.sizes import Budget
from zenith_mlir.remat.apply import run_segments
from zenith_mlir.remat.arguments import Call
from zenith_mlir.remat.choose import choose
from zenith_mlir.remat.lines import Program
from zenith_mlir.remat.policy import Policy
from zenith_mlir.remat.rates import rates_here
from zenith_mlir.remat.segments import Segments
from zenith_mlir.remat.solve import SOLVERS, Infeasible

__all__ = ["checkpoint"]

# Frames of this file are not the user's: JAX leaves them out of source locations.
register_exclusion(__file__)

# Policies of jax.checkpoint by name.
_POLICIES: dict[str, Callable[..., Any]] = {
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "everything": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def checkpoint(
    fun: Callable[..., Any] | None = None,
    *,
    policy: str | Callable[..., Any] | None = "fast",
    budget: str | int | Budget | None = None,
    offload: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Iterable[str] = (),
) -> Callable[..., Any]:
    """`fun`, with less kept between its forward and its backward: a drop-in for `jax.checkpoint`.

        step = jax.grad(zenith.checkpoint(loss, budget="2GiB"))
        block = zenith.checkpoint(block, budget="30%")            # each call, also in the body of a scan

        @zenith.checkpoint(policy="dots")
        def block(weights, x): ...

    A solver chooses what is kept and what is computed again, and `fun` is run in segments, each under `jax.checkpoint`,
    so that a function of many layers computes one layer again at a time. The body of a scan inside `fun` is treated
    alike. Numbers are those of `fun`, also under jit, vmap, jvp, and grad of any order.

    Args:
        fun: Any function of pytrees that jax.checkpoint takes. Leaves that are no arrays (functions, strings) are left
            as they are. Without it the result is a decorator.
        policy: A solver: `"fast"`, `"optimal"`, which takes some ten times as long for what may be a few per cent,
            `"sqrt"` (Chen et al. 2016), `"greedy"` and others in `zenith_mlir.remat.solve.SOLVERS`; `"nothing"`,
            `"everything"`, `"dots"`, `"dots_no_batch"`, the policies of JAX by these names; any other policy of JAX; or
            None, which is `"nothing"`. Policies of JAX make one jax.checkpoint of all of `fun`.
        budget: For a solver, either bytes (`"2GiB"`, an int), which all that is live at one moment in the forward and
            backward of one call is to fit in, beside arguments, results and gradients; or a percentage (`"50%"`), which
            bounds what is kept between the two as a part of what would be kept without checkpoint. That is the one for
            a layer that is called many times, or in a scan. Under vmap, bytes are those of one example. Default:
            `"50%"`, or the least memory if that is not possible, and for `"sqrt"`.
        offload: Whether values may also wait in host memory, where the backend has such. Leave it off for what is
            scanned on a GPU: XLA has returned wrong gradients there (openxla/xla#46231).
        prevent_cse: As in jax.checkpoint: whether the compiler is kept from undoing it. On CPU this takes a compiler
            option, which such programs get by themselves.
        static_argnums: As in jax.checkpoint, positions of arguments that are not traced.
        static_argnames: The same for keyword arguments.

    Raises:
        OptionError: for an unknown policy, or a budget or offload beside a policy of JAX.
        SizeError: for a budget that cannot be read.
        Infeasible: when called, if nothing fits the budget; `minimum` are the bytes that would do.
        UnsupportedJaxError: if this JAX is not known.
    """
    if fun is None:
        return functools.partial(
            checkpoint,
            policy=policy,
            budget=budget,
            offload=offload,
            prevent_cse=prevent_cse,
            static_argnums=static_argnums,
            static_argnames=static_argnames,
        )
    if not isinstance(prevent_cse, bool):
        raise OptionError(f"prevent_cse is True or False, for all arguments, not {prevent_cse!r}")
    hook.install()
    if isinstance(policy, str) and policy not in _POLICIES:
        run = _solve(policy, budget, offload, prevent_cse)
    else:
        run = _apply_policy(policy, budget, offload, prevent_cse)
    numbers = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
    names = {static_argnames} if isinstance(static_argnames, str) else set(static_argnames)

    @functools.wraps(fun)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        call = Call.of(args, kwargs, numbers, names)

        def of_arrays(*arrays: Any) -> Any:
            args, kwargs = call.with_arrays(arrays)
            return fun(*args, **kwargs)

        return run(of_arrays, call.arrays)

    return checkpointed


# Runs a function of arrays on some, checkpointed.
_Run = Callable[[Callable[..., Any], list[Any]], Any]


def _apply_policy(policy: str | Callable[..., Any] | None, budget: Any, offload: bool, prevent_cse: bool) -> _Run:
    """One jax.checkpoint with a policy of JAX."""
    for name, given in (("budget", budget is not None), ("offload", offload)):
        if given:
            shown = policy if isinstance(policy, str | None) else getattr(policy, "__name__", policy)
            raise OptionError(
                f"{name} is for solvers, and the policy {shown} of JAX decides by itself; "
                f"leave {name} out or name a solver"
            )
    saveable = _POLICIES[policy] if isinstance(policy, str) else policy
    marked = Policy(saveable or jax.checkpoint_policies.nothing_saveable)
    return lambda fun, arrays: jax.checkpoint(fun, policy=marked, prevent_cse=prevent_cse)(*arrays)


def _solve(policy: str, budget: str | int | Budget | None, offload: bool, prevent_cse: bool) -> _Run:
    """Segments that the solver `policy` chooses, once for programs of the same lines."""
    if policy not in SOLVERS:
        known = [*SOLVERS, *_POLICIES]
        raise OptionError(
            f"there is no policy {policy!r}{did_you_mean(policy, known)}; there are the solvers {', '.join(SOLVERS)}, "
            f"the policies {', '.join(_POLICIES)} of JAX, and its others as functions"
        )
    bound = None if budget is None else Budget.parse(budget)
    chosen: dict[Any, Segments] = {}

    def run(fun: Callable[..., Any], arrays: list[Any]) -> Any:
        try:
            program, shapes = Program.trace(fun, arrays)
        except jax.errors.ConcretizationTypeError as error:
            error.add_note("zenith_mlir.checkpoint traces arguments; name those that it should not in static_argnums")
            raise
        key = program.signature
        if key not in chosen:
            chosen[key] = _choose(program, policy, bound, offload)
        results = run_segments(program, chosen[key], arrays, prevent_cse=prevent_cse)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def _choose(program: Program, solver: str, budget: Budget | None, offload: bool) -> Segments:
    """Where no budget is given half is tried, unless the solver is one for the least memory."""
    if budget is None and solver != "sqrt":
        with contextlib.suppress(Infeasible):
            return choose(program, solver, Budget.parse("50%"), rates_here(), offload=offload)
    return choose(program, solver, budget, rates_here(), offload=offload)
