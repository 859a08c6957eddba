"""Implementations on NVIDIA GPUs, one library or kernel a file."""
