"""Which operations XLA fuses into their users, so that their values never lie in memory.

The rules are those of XLA's instruction fusion (xla/service/instruction_fusion.cc): cheap elementwise operations go
into every user that is a loop itself; those that are expensive, or read several values as large as themselves, only
where that does not repeat them. What is left are the *anchors*: their results are buffers.
"""

from __future__ import annotations

from jaxlib.mlir import ir

from zenith_mlir.remat.costs import Rates, flops
from zenith_mlir.remat.flow import Flow
from zenith_mlir.remat.kinds import FREE, FUSED, is_costly

__all__ = ["Fused"]


class Fused:
    """The anchors of a flow. Anchor i reads those of `operands[i]` and is read by those of `users[i]`; `inside[i]` are
    the operations that its loop computes beside it.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        count = len(flow.ops)
        self.is_anchor = [False] * count
        # The anchors that read an operation through fused ones; two stand for more.
        reach: list[frozenset[int]] = [frozenset()] * count
        for i in reversed(range(count)):
            if flow.is_view[i] or flow.ops[i].name in FREE:
                continue
            readers: frozenset[int] = frozenset()
            for user in flow.users[i]:
                if len(readers) < 2:
                    readers |= {user} if self.is_anchor[user] else reach[user]
            self.is_anchor[i] = not self._is_fused(i, readers)
            reach[i] = frozenset(sorted(readers)[:2])
        self.operands: list[list[int]] = [[] for _ in range(count)]
        self.users: list[list[int]] = [[] for _ in range(count)]
        self.inside: list[list[int]] = [[] for _ in range(count)]
        for i in range(count):
            if self.is_anchor[i]:
                self._read(i)

    def _is_fused(self, i: int, readers: frozenset[int]) -> bool:
        flow = self.flow
        name = flow.ops[i].name
        if name not in FUSED or i in flow.returned or not flow.users[i]:
            return False
        alone = len(readers) == 1
        loops = FUSED | {"stablehlo.reduce"} if alone else FUSED
        return all(flow.ops[user].name in loops for user in flow.users[i]) and (alone or not is_costly(flow.ops[i]))

    def _read(self, anchor: int) -> None:
        """Fill in what `anchor` reads and computes."""
        seen: dict[int, None] = {}
        stack = list(reversed(self.flow.operands[anchor]))
        while stack:
            i = stack.pop()
            if i in seen:
                continue
            seen[i] = None
            if self.is_anchor[i]:
                self.operands[anchor].append(i)
                self.users[i].append(anchor)
            else:
                self.inside[anchor].append(i)
                stack.extend(reversed(self.flow.operands[i]))

    def seconds(self, anchor: int, module: ir.Operation, rates: Rates) -> float:
        """Time of the loop of `anchor` in a module: what it computes, and what it reads and writes."""
        flow = self.flow
        work = sum(flops(flow.ops[i], module) for i in (anchor, *self.inside[anchor]))
        traffic = flow.bytes[anchor] + sum(flow.bytes[i] for i in self.operands[anchor])
        return float(work / rates.flops + traffic / rates.bytes)
