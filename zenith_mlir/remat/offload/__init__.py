"""Offload: residuals that wait for the backward in pinned memory of the host instead of the device's.

`residuals` finds them, `timeline` and `link` say which transfers hide behind the program, `placement` writes the
placements, `stacked` does so for what loops stack, `selfcheck` runs a program with and without them.
"""
