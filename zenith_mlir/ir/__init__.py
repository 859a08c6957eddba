"""What jaxlib's MLIR bindings lack: a context, reading and writing, source locations, walking and
rewriting.
"""
