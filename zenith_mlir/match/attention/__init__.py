"""The semantic matcher for attention: softmax(q kᵀ) v in the canonical form, whatever its layout."""

from __future__ import annotations

from zenith_mlir.match.attention.gradient import (
    GradientSite,
    match_gradient,
    match_recomputed,
    recompute_saved,
    recompute_stacked,
)
from zenith_mlir.match.attention.site import Site, match_site
from zenith_mlir.match.attention.softmax import NoMatch, Softmax, find_softmax
from zenith_mlir.match.repeated import repetitions

__all__ = [
    "GradientSite",
    "NoMatch",
    "Site",
    "Softmax",
    "find_softmax",
    "match_gradient",
    "match_recomputed",
    "match_site",
    "recompute_saved",
    "recompute_stacked",
    "repetitions",
]
