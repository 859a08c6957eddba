"""The formula in jnp, under jax.jit."""

from peers.jax_program import bind, version

__all__ = ["prepare", "version"]


def prepare(family, case, threads):
    return bind(family.formula(case), family, case)
