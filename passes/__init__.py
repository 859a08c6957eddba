"""Compiler passes, one a file, named as on the command line: insert_remat.py is the pass insert-remat."""

if __name__ != "zenith_mlir.passes":
    # Found by running from the checkout's root. Importing it as a second module would register everything twice.
    raise ImportError(f"import zenith_mlir.passes instead of {__name__}", name=__name__)
