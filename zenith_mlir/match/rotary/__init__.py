"""Rotary position embeddings, found as maps along the features."""

from zenith_mlir.match.rotary.rotation import BACKWARDS, NoRotation
from zenith_mlir.match.rotary.site import ANCHORS, Site, match_rotary
from zenith_mlir.match.rotary.standins import Made

__all__ = ["ANCHORS", "BACKWARDS", "Made", "NoRotation", "Site", "match_rotary"]
