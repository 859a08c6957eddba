"""What one tensor's cone is read as: where its activation is, and what is multiplied by that or its derivative."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.match.activation.cone import Cone
from zenith_mlir.match.activation.known import Activation, recognise
from zenith_mlir.match.activation.piece import width
from zenith_mlir.match.activation.products import Product, partners, products


@dataclass(frozen=True)
class Reading:
    """`values` of the cone are the activation; `products` are by partner. Where `narrow` some float has 16 bits, and
    constants may be rounded to that.
    """

    cone: Cone
    activation: Activation
    values: list[ir.Value]
    products: list[Product]
    narrow: bool

    @property
    def x(self) -> ir.Value:
        return self.cone.roots[0]

    @classmethod
    def of(cls, cone: Cone) -> Reading | None:
        """None if the cone has no activation."""
        narrow = any(width(value) == 16 for value in cone.samples)
        activation: Activation | None = None
        values = []
        for value, sample in cone.deep_values():
            known = recognise(sample.at, sample.coarse if narrow else 0.0)
            if known is not None:
                values.append(value)
                activation = activation or known
        found: list[Product] = []
        for partner in partners(cone):
            of_partner = products(cone, partner, activation, narrow)
            found += of_partner
            activation = activation or (of_partner[0].activation if of_partner else None)
        return None if activation is None else cls(cone, activation, values, found, narrow)
