"""Rematerialization: what a training step keeps of its forward, what it computes again, what it moves to the host.

`problem` states it, `schedule` is a plan and what memory it needs, the solvers find plans, `checkpoint` applies them to
JAX functions and `zenith_mlir.passes.insert_remat` to modules.
"""
