"""The command line programs, one a file."""

if __name__ != "zenith_mlir.tools":
    # Found by running from the checkout's root. Importing it as a second module would register everything twice.
    raise ImportError(f"import zenith_mlir.tools instead of {__name__}", name=__name__)
