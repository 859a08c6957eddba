"""Our kernels, under jax.jit."""

from peers import jax_program


def prepare(family, case, threads):
    return jax_program.bind(family.fused(case), family, case)


def version(threads):
    import zenith_mlir
    from zenith_mlir.kernels import cpu

    return f"zenith_mlir {zenith_mlir.__version__} on {cpu.instruction_set()}, {jax_program.version(threads)}"
