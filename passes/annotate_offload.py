"""annotate-offload: residuals wait for the backward in pinned memory of the host."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxlib.mlir import ir

from zenith_mlir.context import PassContext
from zenith_mlir.ir.location import frames, is_user_code, names
from zenith_mlir.ir.symbols import functions
from zenith_mlir.memory.sizes import Budget, format_bytes, parse_bytes
from zenith_mlir.module import Module
from zenith_mlir.passes.inline_calls import InlineCalls
from zenith_mlir.registry import Pass, option, register
from zenith_mlir.remat.flow import Flow
from zenith_mlir.remat.offload.anchors import Anchors
from zenith_mlir.remat.offload.choice import Choices, Schedule
from zenith_mlir.remat.offload.placement import DEVICE, is_placement, memory_of, results_on_device
from zenith_mlir.remat.offload.residuals import Order, Residual, residuals
from zenith_mlir.remat.offload.rewrite import Sending, send
from zenith_mlir.remat.offload.stacked import Stack, recompute_cheap, send_rows, stacks
from zenith_mlir.remat.offload.timeline import begins, link_of
from zenith_mlir.remat.partition import forward_length
from zenith_mlir.target import Target


@register("annotate-offload")
@dataclass(frozen=True)
class AnnotateOffload(Pass):
    """Let residuals, what the forward of a training step makes and its backward uses, wait in pinned memory of the
    host, for targets that are GPUs.

    By default those whose transfers hide behind the program, by a model of the link to the host, largest first; with a
    budget so many that no more than that stays on the device; or those whose names `values` finds: the scopes of
    `jax.named_scope` and the primitive as in "jit(step)/jvp(block)/dot_general", functions of the user, "model.py:12".
    Cheap operations on what was sent away are computed again from what comes back. The forward waits until a value has
    left, the way back for a cotangent.

    Before a program is changed both forms of it are compiled and run on random arguments, where the GPU is present, and
    have to agree. Calls of private functions are inlined.
    """

    values: str = option("", "regular expression: send the residuals with such a name; default: those that hide")
    min_bytes: str = option("64MiB", "leave smaller values on the device")
    budget: str = option("", "bytes of residuals, or percentage of them, that may stay on the device")
    host_bandwidth: str = option("", "of the link to the host, each way, as 25GB/s; default: what such GPUs have")
    scan: bool = option(False, "send what scans stack, too; some versions of XLA get its gradients wrong on GPUs")
    self_check: bool = option(True, "run the program with and without, where the GPU is present, and compare")
    force: bool = option(False, "annotate for any target; XLA ignores it on CPUs")

    def __post_init__(self) -> None:
        try:
            re.compile(self.values)
        except re.error as error:
            raise ValueError(f"values={self.values!r} is no regular expression: {error}") from None
        if self.budget:
            Budget.parse(self.budget)
        if not self.smallest or not self.bandwidth(Target.parse("cuda:sm_80")):
            raise ValueError("min-bytes and host-bandwidth have to be more than 0")

    @property
    def smallest(self) -> int:
        """`min_bytes` as a number."""
        return parse_bytes(self.min_bytes)

    def bandwidth(self, target: Target) -> int:
        """`host_bandwidth` in bytes a second."""
        return parse_bytes(self.host_bandwidth.removesuffix("/s")) if self.host_bandwidth else link_of(target)

    def run(self, module: Module, ctx: PassContext) -> None:
        main = functions(module.operation).get("main")
        if main is None or not main.regions[0].blocks:
            return
        if ctx.target.platform != "cuda" and not self.force:
            ctx.analysis(main, "", _NO_HOST_MEMORY[ctx.target.platform])
            return
        if devices := _devices(module):
            ctx.missed(main, "", f"the program runs on {devices} devices, and placements are written for one")
            return
        InlineCalls().run(module, ctx)
        if self._passes_check(module, ctx):
            _Offload(self, module, ctx).run()

    def _passes_check(self, module: Module, ctx: PassContext) -> bool:
        """Whether the program computes the same with its residuals on the host, as far as that can be tried here."""
        if not self.self_check:
            return True
        main, trial = functions(module.operation)["main"], module.clone()
        if not _Offload(self, trial, _unheard(ctx)).run():
            return True
        if Target.host().platform != ctx.target.platform:
            ctx.analysis(main, "", f"the self-check did not run: {ctx.target} is described, not present")
            return True
        from zenith_mlir.remat.offload.selfcheck import CannotCheck, difference

        try:
            wrong = difference(module, trial, ctx.target)
        except CannotCheck as error:
            if error.too_large:
                ctx.analysis(main, "", f"the self-check did not run: {error}")
            else:
                ctx.missed(main, "", f"{error}, so it cannot be compared", "self-check=false asks for no comparison")
            return error.too_large
        if wrong:
            reason = "with its residuals on the host the program computes something else, so it stays as it is"
            ctx.failure(main, "", f"{reason}: {wrong}")
        return not wrong


_NO_HOST_MEMORY = {
    "cpu": "XLA drops placements on a CPU, whose memory is the host's: the program stays as it is",
    "none": "the target none has no memory of its own: the program stays as it is",
}


def _devices(module: Module) -> int:
    """How many devices the program is written for, if they are several."""
    attributes = module.operation.attributes
    counts = [
        ir.IntegerAttr(attributes[name]).value if name in attributes else 1
        for name in ("mhlo.num_partitions", "mhlo.num_replicas")
    ]
    count = counts[0] * counts[1]
    return count if count > 1 else 0


def _unheard(ctx: PassContext) -> PassContext:
    return replace(ctx, remarks=[], statistics=Counter())


class _Offload:
    """One run of the pass on one module."""

    def __init__(self, options: AnnotateOffload, module: Module, ctx: PassContext) -> None:
        self._options = options
        self._module = module
        self._ctx = ctx
        self._main = functions(module.operation)["main"]
        self._pattern = re.compile(options.values)

    def run(self) -> bool:
        """Whether anything was sent to the host."""
        block: ir.Block = self._main.regions[0].blocks[0]
        sent = self._send_stacks(block) + self._send_values(block)
        if sent:
            results_on_device(self._module.operation)
        return sent > 0

    # ---- What loops stack ----

    def _send_stacks(self, block: ir.Block) -> int:
        if not self._wanted_stacks(block):
            return 0
        if not self._options.scan:
            self._miss_stacks(self._wanted_stacks(block))
            return 0
        self._ctx.count("residuals recomputed", recompute_cheap(block))
        wanted = self._wanted_stacks(block)
        for stack in wanted:
            self._passed(stack.op, stack.bytes)
            send_rows(stack)
        return len(wanted)

    def _wanted_stacks(self, block: ir.Block) -> list[Stack]:
        found = (stack for stack in stacks(block) if not stack.is_away)
        return [s for s in found if s.bytes >= self._options.smallest and self._is_named([s.op])]

    def _miss_stacks(self, found: Sequence[Stack]) -> None:
        """One remark a loop, or one a value that the user named."""
        sizes: Counter[ir.Operation] = Counter()
        for stack in found:
            sizes[stack.op if self._options.values else stack.loop.op] += stack.bytes
        for op, size in sizes.items():
            reason = (
                f"a scan stacks {format_bytes(size)} of residuals, and on GPUs XLA has got gradients wrong for that"
            )
            self._ctx.missed(op, op.name, reason, "scan=true sends them; the self-check compares the results")

    # ---- Values of straight code ----

    def _send_values(self, block: ir.Block) -> int:
        order = Order(block)
        forward = _forward_length(order)
        stacked = {stack.value for stack in stacks(block)}
        found = [
            residual for residual in residuals(order, forward, self._options.smallest) if residual.value not in stacked
        ]
        seconds = begins(order, self._module.operation, self._ctx.target)
        schedule = Schedule(order, seconds, self._options.bandwidth(self._ctx.target))
        choices = Choices(schedule, [residual for residual in found if self._may_go(residual)])
        self._choose(choices, _Account.of(found, schedule))
        taken = {value for choice in choices for op in choice.residual.again for value in op.results}
        anchors = Anchors(order, forward, seconds, taken)
        plan: list[Sending] = []
        for choice in sorted(choices, key=lambda choice: choice.residual.made):
            residual = choice.residual
            cotangent = anchors.cotangent(residual, choice.back)
            if cotangent is not None:
                plan.append(Sending(residual, anchors.activation(residual, choice.there), cotangent))
                self._passed(residual.op, residual.bytes, hidden=choice.hidden)
            elif self._options.values:
                self._miss(residual, "nothing of the backward comes before its first use")
        self._explain(found, choices, order, forward)
        if plan:
            send(order, forward, plan)
        return len(plan)

    def _may_go(self, residual: Residual) -> bool:
        return residual.bytes >= self._options.smallest and self._is_named(residual.named_by())

    def _choose(self, choices: Choices, account: _Account) -> None:
        if not self._options.budget:
            choices.take_hidden()
            if self._options.values:
                choices.take()
            return
        allowed = Budget.parse(self._options.budget).of(account.total)
        choices.take_hidden(account.kept - allowed)
        choices.take(account.kept - allowed)
        kept = account.kept - choices.bytes
        if kept > allowed:
            reason = f"{format_bytes(kept)} of residuals stay on the device, and the budget is {format_bytes(allowed)}"
            self._ctx.missed(self._main, "", reason, "a smaller min-bytes, or scan=true, leaves more to choose from")

    # ---- Remarks ----

    def _explain(self, found: Sequence[Residual], choices: Choices, order: Order, forward: int) -> None:
        """Say why residuals that the user named stay, or that none was chosen."""
        if not self._options.values:
            if not choices.bytes and not self._options.budget:
                size = format_bytes(sum(residual.bytes for residual in found))
                reason = f"of {len(found)} residuals ({size}) none is large and waits so long that its transfers hide"
                self._ctx.analysis(self._main, "", reason)
            return
        named = [residual for residual in found if self._is_named(residual.named_by())]
        for residual in named:
            if residual.bytes < self._options.smallest:
                size = format_bytes(residual.bytes)
                self._miss(residual, f"it takes {size}, and min-bytes is {self._options.min_bytes}")
            elif residual in choices.left:
                self._miss(residual, "the backward uses it before anything else takes time: nothing would be freed")
        arguments = [a for a in order.block.arguments if self._matches(names(a.location)) and _used(a, order, forward)]
        for argument in arguments:
            name = next(names(argument.location))
            reason = f"{name} is an argument, whose memory the caller chooses"
            self._ctx.missed(self._main, "", reason, 'jax.device_put to a sharding with memory_kind="pinned_host"')
        if not named and not arguments and not any(self._is_named([s.op]) for s in stacks(order.block)):
            reason = f"no residual has a name in which {self._options.values!r} is found"
            self._ctx.missed(self._main, "", reason, "jax.named_scope gives names")

    def _passed(self, op: ir.Operation, size: int, **facts: Any) -> None:
        self._ctx.count("values offloaded")
        self._ctx.passed(op, op.name, value=_name(op), bytes=size, choice="offload", **facts)

    def _miss(self, residual: Residual, reason: str) -> None:
        self._ctx.missed(residual.op, residual.op.name, reason, value=_name(residual.op), bytes=residual.bytes)

    def _is_named(self, ops: Iterable[ir.Operation]) -> bool:
        return not self._options.values or any(self._matches(_names(op)) for op in ops)

    def _matches(self, texts: Iterable[str]) -> bool:
        return any(self._pattern.search(text) for text in texts)


@dataclass(frozen=True)
class _Account:
    """Bytes of residuals: `kept` on the device so far, and `total` with those on the host."""

    kept: int
    total: int

    @classmethod
    def of(cls, found: Sequence[Residual], schedule: Schedule) -> _Account:
        stacked = stacks(schedule.order.block)
        away = sum(stack.bytes for stack in stacked if stack.is_away)
        kept = sum(residual.bytes for residual in found) + sum(stack.bytes for stack in stacked) - away
        return cls(kept, kept + away + schedule.placed_bytes())


def _forward_length(order: Order) -> int:
    """Of the operations of the block how many are the forward: none behind the first that brings something back."""
    back = (op for op in order.ops if is_placement(op) and memory_of(op) == DEVICE)
    return min([forward_length(Flow(order.block)), *(order.made(op.operands[0]) for op in back)])


def _used(argument: ir.Value, order: Order, forward: int) -> bool:
    """Whether the backward uses `argument`."""
    return any(order.of(use.owner.operation) >= forward for use in argument.uses)


def _names(op: ir.Operation) -> Iterator[str]:
    """What `values` may find: the names in the location of `op`, and "file:line" of the user's frames."""
    yield from names(op.location)
    yield from (f"{frame.file}:{frame.line}" for frame in frames(op.location) if is_user_code(frame.file))


def _name(op: ir.Operation) -> str:
    return next(names(op.location), op.name)
