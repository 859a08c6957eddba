"""The backward of a matched attention: read as polynomials, compared with the derivative, found wherever it stands."""

from zenith_mlir.match.attention.gradient.recomputed import match_recomputed
from zenith_mlir.match.attention.gradient.saved import recompute_saved
from zenith_mlir.match.attention.gradient.site import GradientSite, match_gradient
from zenith_mlir.match.attention.gradient.stacked import recompute_stacked

__all__ = ["GradientSite", "match_gradient", "match_recomputed", "recompute_saved", "recompute_stacked"]
