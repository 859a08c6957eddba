"""Running jaxprs by equations: what is private in JAX and used for it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from zenith_mlir.ir.jaxprs import closed_call, evaluate, scan_arguments

X = np.ones(3, "float32")


def equation(f, name, *args):
    return next(eqn for eqn in jax.make_jaxpr(f)(*args).jaxpr.eqns if eqn.primitive.name == name)


def test_an_equation_runs_at_its_place_in_the_source():
    sine = equation(jnp.sin, "sin", X)
    np.testing.assert_allclose(evaluate(sine, [X])[0], np.sin(X), rtol=1e-6)

    def here(x):
        return jnp.sin(x)  # the line of the equation

    eqn = equation(here, "sin", X)
    text = jax.jit(lambda x: evaluate(eqn, [x])[0]).lower(X).as_text(debug_info=True)
    line = here.__code__.co_firstlineno + 1
    assert f'test_jaxprs.py":{line}:' in text


def test_only_plain_calls_are_opened():
    assert closed_call(equation(jax.jit(jnp.sin), "jit", X)) is not None
    assert closed_call(equation(jnp.sin, "sin", X)) is None
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.jit(jnp.sin, in_shardings=jax.sharding.NamedSharding(mesh, P("d")))
    assert closed_call(equation(sharded, "jit", X)) is None


def test_arguments_of_scans():
    def f(w, carry, xs):
        return jax.lax.scan(lambda c, x: ((c[0] + x @ w, c[1] + 1), c[0]), carry, xs)

    eqn = equation(f, "scan", np.ones((3, 3), "float32"), (X, 0), np.ones((2, 3), "float32"))
    assert scan_arguments(eqn) == (1, 2)
