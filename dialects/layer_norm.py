"""zenith.layer_norm: out = n (weight + offset) + bias with n = (s - mean s) / √(mean (s - mean s)² + epsilon).

s is x, or x + residual, which then is a second result.
(Ba, Kiros and Hinton 2016.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zenith_mlir.dialects.norm import NormSpec, reference

__all__ = ["NAME", "LayerNormSpec", "reference"]

NAME = "zenith.layer_norm"


@dataclass(frozen=True)
class LayerNormSpec(NormSpec):
    """What the attributes of a zenith.layer_norm say."""

    OP: ClassVar[str] = NAME
    CENTRED: ClassVar[bool] = True
