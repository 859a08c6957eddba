"""cast-precision against a library's own bfloat16: it may not lose more."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import zenith_mlir as zenith
from zenith_mlir.certify.pair import run, widened
from zenith_mlir.ir.executable import compile_module
from zenith_mlir.ir.facts import element_type, walk_named
from zenith_mlir.ir.float64 import to_float64

# XLA may otherwise leave out the roundings that shall be compared.
OPTIONS = {"xla_allow_excess_precision": False, "xla_backend_optimization_level": 0}
WIDTH = 32


class Block(nn.Module):
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(32, WIDTH, dtype=self.dtype)(ids)
        y = nn.LayerNorm(dtype=self.dtype)(x)
        x = x + nn.MultiHeadDotProductAttention(2, dtype=self.dtype)(y)
        y = nn.Dense(2 * WIDTH, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))
        x = x + nn.Dense(WIDTH, dtype=self.dtype)(nn.gelu(y))
        return nn.Dense(WIDTH, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))


def forward(dtype):
    block = Block(dtype)
    return lambda parameters, ids: block.apply(parameters, ids)


def batches(count):
    """Parameters, with biases and scales like trained ones, and tokens."""
    start = jax.eval_shape(Block(jnp.float32).init, jax.random.key(0), jnp.zeros((2, 16), jnp.int32))
    for seed in range(count):
        generator = np.random.default_rng(seed)

        def parameter(path, leaf, generator=generator):
            noise = generator.normal(size=leaf.shape) / np.sqrt(WIDTH)
            return np.float32(noise + ("scale" in jax.tree_util.keystr(path)))

        yield jax.tree_util.tree_map_with_path(parameter, start), np.int32(generator.integers(0, 32, (2, 16)))


def test_a_linen_block_loses_no_more_than_by_its_own_bfloat16():
    drawn = list(batches(9))
    original = zenith.trace(forward(jnp.float32), *drawn[0])
    cast = original.run("default-bf16", target="cpu")
    prepared = original.run("prepare,cast-precision", target="cpu")
    products = walk_named(prepared.operation, "stablehlo.dot_general")
    assert {str(element_type(value)) for op in products for value in op.operands} == {"bf16"}

    library = zenith.trace(forward(jnp.bfloat16), *drawn[0])
    judge = compile_module(to_float64(original), "cpu", compiler_options=OPTIONS)
    executables = [compile_module(own, "cpu", compiler_options=OPTIONS) for own in (library, cast, prepared)]
    errors = []
    for batch in drawn:
        arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(batch)]
        (exact,) = run(judge, map(widened, arrays))
        found = (run(executable, arrays)[0] for executable in executables)
        errors.append([np.linalg.norm(widened(each) - exact) / np.linalg.norm(exact) for each in found])
    library_errors, *own = np.transpose(errors)
    for each in own:
        assert np.median(each) > 1e-4  # computed in bfloat16 indeed
        assert np.median(each / library_errors) <= 1
