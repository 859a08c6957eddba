"""zenith.rms_norm: out = n (weight + offset) + bias with n = s / √(mean s² + epsilon).

s is x, or x + residual, which then is a second result.
(Zhang and Sennrich 2019.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zenith_mlir.dialects.norm import NormSpec, reference

__all__ = ["NAME", "RmsNormSpec", "reference"]

NAME = "zenith.rms_norm"


@dataclass(frozen=True)
class RmsNormSpec(NormSpec):
    """What the attributes of a zenith.rms_norm say."""

    OP: ClassVar[str] = NAME
    CENTRED: ClassVar[bool] = False
