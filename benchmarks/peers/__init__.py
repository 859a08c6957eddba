"""The processes that benchmarks/kernels.py compares: each runs the cases it is told to, when it is told to."""
