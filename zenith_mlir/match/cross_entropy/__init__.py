"""Cross-entropy with integer labels: the loss of rows of logits and its gradient, compared as polynomials."""

from zenith_mlir.match.cross_entropy.site import Site, match_cross_entropy

__all__ = ["Site", "match_cross_entropy"]
