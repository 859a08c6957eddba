"""Generators of random bits. Those of jax.random are integer arithmetic, and converted as such, but for one."""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir

from zenith_mlir.onnx.convert import Lowering, NotConvertible, Walk
from zenith_mlir.onnx.view import View

__all__ = ["RANDOM_BITS"]


def _rng_bit_generator(walk: Walk, op: ir.Operation) -> Sequence[View]:
    raise NotConvertible(
        "its bits differ between devices; use keys of jax.random.key(seed, impl='threefry2x32'), whose bits do not"
    )


RANDOM_BITS: dict[str, Lowering] = {"stablehlo.rng_bit_generator": _rng_bit_generator}
