"""Problems of rematerialization of any length: layers that are alike, and such that are not."""

from __future__ import annotations

import random

import numpy as np

from zenith_mlir.remat.problem import Problem

_PRODUCTS = 8


def deep_program(nodes: int, *, alike: bool = True) -> Problem:
    """Layers of 35 nodes with a residual connection until there are `nodes`. In each, products of 4 units of memory and
    10 of time, and cheap elementwise values of 4 and 16 units made of them; unless layers are `alike`, products of each
    take up to a fifth more time.
    """
    r = random.Random(0)
    cost: list[float] = []
    size: list[int] = []
    transient: list[int] = []
    operands: list[list[int]] = []
    layers: list[list[list[int]]] = []

    def node(seconds: float, units: int, *reads: int | None, fused: bool = False) -> int:
        cost.append(seconds)
        size.append(units)
        transient.append(0 if fused else units)
        operands.append([j for j in reads if j is not None])
        return len(cost) - 1

    x: int | None = None
    while len(cost) < nodes:
        slower = 1.0 if alike else 1 + r.random() / 5
        normed = last = node(0.1, 4, x, fused=True)
        inner = []
        for _ in range(_PRODUCTS):
            product = node(10 * slower, 4, last)
            biased = node(0.2, 4, product, fused=True)
            wide = node(0.3, 16, biased)
            last = node(0.2, 16, wide, fused=True)
            inner += [product, biased, wide, last]
        out = node(8, 4, last)
        x = node(0.1, 4, x, out)
        layers.append([[out], *([i] for i in reversed(inner)), [normed], [x]])
    return Problem.of(cost, size, operands, [uses for layer in reversed(layers) for uses in layer], transient=transient)


def uneven_program(nodes: int) -> Problem:
    """Blocks of 5 nodes: a product, an activation, a product, a sum with what came in, and a norm; no two take the same
    bytes or seconds.
    """
    blocks = nodes // 5
    rng = np.random.default_rng(0)
    operands: list[list[int]] = []
    before: list[int] = []
    for first in range(0, 5 * blocks, 5):
        operands += [before, [first], [first + 1], [first + 2, *before], [first + 3]]
        before = [first + 4]
    sizes = (np.tile([4, 4, 1, 1, 1], blocks) * rng.uniform(0.5, 1.5, 5 * blocks) * 2**20).astype(int)
    costs = np.tile([4.0, 0.3, 4.0, 0.1, 0.2], blocks) * rng.uniform(0.5, 1.5, 5 * blocks) * 1e-3
    uses = [[i, *operands[i]] for i in reversed(range(5 * blocks))]
    return Problem.of(costs.tolist(), sizes.tolist(), operands, uses)
