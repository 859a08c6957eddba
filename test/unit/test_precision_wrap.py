"""Functions and modules under a precision policy: what they compute in, what they store, what gradients are."""

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from zenith_mlir.precision.policy import Policy, PolicyError

MIXED = Policy.parse("mixed_bfloat16")
X = jnp.linspace(-1, 1, 6).reshape(2, 3)
# No number of bfloat16.
THIRD = nn.initializers.constant(1 / 3)


def dtypes(tree: Any) -> set[str]:
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)}


def test_a_function_computes_in_one_dtype_and_gives_another() -> None:
    seen = []

    @MIXED.wrap
    def project(weights: dict[str, jax.Array], x: jax.Array, *, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Rows of a product."""
        seen.extend([weights["w"].dtype, x.dtype, rows.dtype])
        return (x @ weights["w"])[rows], rows

    weights = {"w": jnp.full((3, 2), 1 / 3)}
    y, rows = project(weights, X, rows=jnp.array([1]))
    assert seen == [jnp.bfloat16, jnp.bfloat16, jnp.int32]
    assert (y.dtype, rows.dtype, weights["w"].dtype) == (jnp.float32, jnp.int32, jnp.float32)
    expected = X.astype(jnp.bfloat16) @ weights["w"].astype(jnp.bfloat16)
    assert y.tolist() == expected[1:].astype(jnp.float32).tolist()
    assert (project.__name__, project.__doc__) == ("project", "Rows of a product.")
    assert dtypes(jax.eval_shape(jax.grad(lambda w: project(w, X, rows=rows)[0].sum()), weights)) == {"float32"}


def test_an_equinox_module_is_cast_for_the_call_only() -> None:
    model = eqx.nn.Sequential([eqx.nn.Linear(3, 2, key=jax.random.key(0)), eqx.nn.Lambda(jnp.tanh)])
    y = MIXED.wrap(model)(X[0])
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf, model)
    assert y.dtype == jnp.float32
    assert y.tolist() == low(X[0].astype(jnp.bfloat16)).astype(jnp.float32).tolist()
    assert y.tolist() != model(X[0]).tolist()
    grads = eqx.filter_jit(eqx.filter_grad(lambda model: MIXED.wrap(model)(X[0]).sum()))(model)
    assert dtypes(eqx.filter(model, eqx.is_array)) == dtypes(grads) == {"float32"}


class Normed(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.linear = nnx.Linear(3, 4, kernel_init=THIRD, rngs=rngs)
        self.largest = nnx.BatchStat(jnp.zeros(()))
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.features(x)
        assert self.largest.dtype == jnp.float32
        self.largest[...] = jnp.maximum(self.largest[...], abs(y).max())
        return self.dropout(y)

    def features(self, x: jax.Array) -> jax.Array:
        y = self.linear(x)
        assert y.dtype == jnp.bfloat16
        return y

    def remember(self, x: jax.Array) -> None:
        self.last = nnx.Cache(self.features(x))


CALLS = {
    "module": lambda model, x: MIXED.wrap(model)(x),
    "argument": lambda model, x: MIXED.wrap(lambda models, x: models["a"](x))({"a": model}, x),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_nnx_module_keeps_its_parameters_and_what_a_call_changes(call: str) -> None:
    model = Normed(nnx.Rngs(0))
    kernel = model.linear.kernel[...]
    grads = nnx.jit(nnx.grad(lambda model: CALLS[call](model, X).sum()))(model)
    assert dtypes(grads) == dtypes(nnx.state(model)) == {"float32"}
    assert (model.linear.kernel[...] == kernel).all()
    low = X.astype(jnp.bfloat16) @ kernel.astype(jnp.bfloat16)
    assert model.largest[...] == abs(low).max()
    assert model.dropout.rngs.count[...] == 1


def test_a_method_of_an_nnx_module_runs_under_the_policy() -> None:
    model = Normed(nnx.Rngs(0))
    assert MIXED.wrap(model.features)(X).dtype == jnp.float32
    assert dtypes(nnx.state(model)) == {"float32"}
    # State that the call makes is the module's as well.
    MIXED.wrap(model.remember)(X)
    assert model.last.shape == (2, 4)


class Plain(nn.Module):
    """Says nothing of dtypes."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        y = nn.Dense(4, kernel_init=THIRD)(x)
        assert self.is_initializing() or y.dtype == jnp.bfloat16
        return nn.BatchNorm(use_running_average=not train)(y)


class Chosen(nn.Module):
    """Has dtypes, and a last layer of its own choice."""

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.Dense(4, dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=THIRD)(x)
        assert y.dtype == jnp.bfloat16
        y = nn.Dense(2, dtype=jnp.float32, param_dtype=self.param_dtype, kernel_init=THIRD)(y)
        assert y.dtype == jnp.float32
        return y


def test_a_linen_module_without_dtypes_gets_its_parameters_cast() -> None:
    model = MIXED.wrap(Plain())
    variables = model.init(jax.random.key(0), X)
    assert dtypes(variables) == {"float32"}
    y, changed = model.apply(variables, X, mutable=["batch_stats"])
    assert y.dtype == jnp.float32 and dtypes(changed) == {"float32"}
    assert set(changed) == {"batch_stats"}

    def loss(params: Any) -> jax.Array:
        return model.apply({**variables, "params": params}, X, False).sum()

    assert dtypes(jax.eval_shape(jax.grad(loss), variables["params"])) == {"float32"}


def test_a_linen_module_with_dtypes_casts_for_itself() -> None:
    model = MIXED.wrap(Chosen())
    variables = model.init(jax.random.key(0), X)
    assert dtypes(variables) == {"float32"}
    hidden, last = variables["params"]["Dense_0"], variables["params"]["Dense_1"]
    first = nn.Dense(4, dtype=jnp.bfloat16).apply({"params": hidden}, X)
    # The last layer's weights are not rounded on their way.
    assert model.apply(variables, X).tolist() == nn.Dense(2).apply({"params": last}, first.astype(jnp.float32)).tolist()


def test_parameters_of_linen_are_made_in_their_dtype() -> None:
    policy = Policy("bfloat16", "bfloat16", "float32")
    for module in (Plain(), Chosen()):
        assert dtypes(jax.eval_shape(policy.wrap(module).init, jax.random.key(0), X)["params"]) == {"bfloat16"}


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"only functions and modules .* 'model' is neither"):
        MIXED.wrap("model")  # type: ignore[arg-type]
