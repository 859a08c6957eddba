"""The backward of a matched attention: read as polynomials, compared with the derivative, found wherever it stands."""

from zenith_mlir.match.attention.gradient.site import GradientSite, match_gradient

__all__ = ["GradientSite", "match_gradient"]
