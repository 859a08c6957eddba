"""Softmax and log-softmax that are no attention, and their gradients, compared as polynomials."""

from zenith_mlir.match.softmax.site import Site, match_softmax

__all__ = ["Site", "match_softmax"]
