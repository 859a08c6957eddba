"""Dimension numbers of dot_general."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlib.mlir import ir


@dataclass(frozen=True)
class DotDims:
    """Batching and contracting dimensions of a stablehlo.dot_general; the rest of each operand is free.

    The result's dimensions are batching, then lhs free, then rhs free (StableHLO specification, dot_general).
    """

    lhs_batch: tuple[int, ...]
    rhs_batch: tuple[int, ...]
    lhs_contracting: tuple[int, ...]
    rhs_contracting: tuple[int, ...]

    @classmethod
    def of(cls, op: ir.Operation) -> DotDims:
        numbers = op.attributes["dot_dimension_numbers"]
        # The dialect's Python classes read the attribute's fields; importing them registers the type.
        from jaxlib.mlir.dialects import stablehlo

        dims = stablehlo.DotDimensionNumbers(numbers)
        return cls(
            tuple(dims.lhs_batching_dimensions),
            tuple(dims.rhs_batching_dimensions),
            tuple(dims.lhs_contracting_dimensions),
            tuple(dims.rhs_contracting_dimensions),
        )

    def lhs_free(self, rank: int) -> list[int]:
        return [i for i in range(rank) if i not in self.lhs_batch and i not in self.lhs_contracting]

    def rhs_free(self, rank: int) -> list[int]:
        return [i for i in range(rank) if i not in self.rhs_batch and i not in self.rhs_contracting]
