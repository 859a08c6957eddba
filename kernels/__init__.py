"""Implementations of the zenith operations: cpu/ (C++), gpu/, and reference/, the mathematics in numpy."""

if __name__ != "zenith_mlir.kernels":
    # Found by running from the checkout's root. Importing it as a second module would register everything twice.
    raise ImportError(f"import zenith_mlir.kernels instead of {__name__}", name=__name__)
