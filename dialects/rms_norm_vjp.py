"""zenith.rms_norm_vjp: gradients of zenith.rms_norm.

With r = 1 / √(mean s² + epsilon), n = s r, dy the cotangent of out, ds that of the sum and g = dy (weight + offset):

    dx = r (g - n mean (g n)) + ds      dweight = Σ dy n      dbias = Σ dy

The sums are over all axes that the weight lacks. Nothing is kept of the forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zenith_mlir.dialects.norm import NormVjpSpec
from zenith_mlir.dialects.norm import reference_vjp as reference

__all__ = ["NAME", "RmsNormVjpSpec", "reference"]

NAME = "zenith.rms_norm_vjp"


@dataclass(frozen=True)
class RmsNormVjpSpec(NormVjpSpec):
    """What the attributes of a zenith.rms_norm_vjp say."""

    OP: ClassVar[str] = NAME
    CENTRED: ClassVar[bool] = False
