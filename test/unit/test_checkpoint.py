"""zenith.checkpoint: the same numbers, less kept, within the budget."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name, print_saved_residuals

import zenith_mlir as zenith
from zenith_mlir.errors import OptionError
from zenith_mlir.ir.jaxprs import scan_arguments
from zenith_mlir.memory.sizes import Budget, SizeError
from zenith_mlir.remat import checkpoint as checkpoint_module
from zenith_mlir.remat.apply import run_segments
from zenith_mlir.remat.choose import choose
from zenith_mlir.remat.lines import Program
from zenith_mlir.remat.rates import RATES
from zenith_mlir.remat.solve import Infeasible

RNG = np.random.default_rng(0)
WEIGHTS = tuple(RNG.normal(size=(4, 8, 8)).astype("float32") / 4)
STACKED = np.stack(WEIGHTS)
X = RNG.normal(size=(4, 8)).astype("float32")


# ---- Programs ----


@jax.custom_vjp
def squared_sine(x):
    return jnp.sin(x) ** 2


squared_sine.defvjp(lambda x: (squared_sine(x), jnp.sin(2 * x)), lambda sine, g: (g * sine,))


def block(w, x):
    return x + jnp.tanh(jax.nn.relu(x @ w) @ w.T) / (1 + jnp.exp(-x))


def chain(ws, x):
    for w in ws:
        x = block(w, x)
    return (x**2).sum()


def scanned(ws, x):
    """A scan in a scan, backwards, with carries, stacked results and constants."""

    def body(carry, w):
        x, i = carry
        x, _ = jax.lax.scan(lambda x, _: (block(w, x) * ws[0][0, 0], None), x, length=2)
        return (x, i + 1), jnp.sin(x) * i

    (x, _), ys = jax.lax.scan(body, (x, 0), jnp.stack(ws[:3]), reverse=True)
    return (x**2).sum() + ys.sum()


def mixed(ws, x):
    """Branches, loops, custom derivatives, another checkpoint, integers, random bits."""
    x = jax.lax.cond(x.sum() > 0, lambda x: jnp.sin(x) * x, jnp.cos, x)
    x = squared_sine(block(ws[0], x))
    x = jax.lax.fori_loop(0, 3, lambda i, x: jnp.sin(x) + x * i, x)
    x = jax.checkpoint(block)(ws[1], x)
    x = jnp.take_along_axis(x, jnp.argmax(x, -1, keepdims=True) - jnp.arange(2), -1)
    keep = jax.random.bernoulli(jax.random.key(0, impl="rbg"), 0.8, x.shape)
    return jax.nn.log_softmax(jnp.where(keep, x / 0.8, 0)).sum() + jnp.linalg.norm(x)


# ---- Numbers ----


@functools.cache
def compiled(transform, f):
    """Without optimisation, to be quick."""
    return jax.jit(transform(f), compiler_options={"xla_backend_optimization_level": 0})


def judge(transform, f, g, dtype="float64"):
    """What `transform` makes of g equals what it makes of f."""
    with jax.enable_x64(True):
        args = jax.tree.map(lambda x: x.astype(dtype), (WEIGHTS, X))
        plain, mine = (jax.tree.leaves(compiled(transform, h)(*args)) for h in (f, g))
    for p, m in zip(plain, mine, strict=True):
        assert m.dtype == p.dtype == dtype
        np.testing.assert_allclose(m, p, rtol=0, atol=np.abs(p).max() * np.finfo(dtype).eps * 50)


def gradient(f):
    return jax.value_and_grad(f, argnums=(0, 1))


@pytest.mark.parametrize(
    ("program", "options"),
    [
        (chain, {"policy": "optimal", "budget": "25%"}),
        (chain, {"policy": "greedy", "budget": "100%"}),
        (scanned, {"budget": "45%"}),
        (scanned, {"budget": "100%"}),
        (mixed, {"budget": "30%"}),
        (mixed, {"policy": "sqrt"}),
    ],
)
def test_gradients(program, options):
    judge(gradient, program, zenith.checkpoint(program, **options))


def test_gradients_in_float32():
    judge(gradient, chain, zenith.checkpoint(chain, budget="25%"), "float32")


def layers(ws, x):
    return chain(ws[:2], x)


TRANSFORMATIONS = {
    "jvp": lambda f: lambda ws, x: jax.jvp(lambda x: f(ws, x), (x,), (x + 1,)),
    "vmap": lambda f: lambda ws, x: jax.vmap(jax.grad(f, argnums=1), (None, 0))(ws, jnp.stack([x, 2 * x])),
    "hessian-vector": lambda f: lambda ws, x: jax.jvp(jax.grad(lambda x: f(ws, x)), (x,), (x + 1,)),
    "grad-grad": lambda f: lambda ws, x: jax.grad(lambda x: (jax.grad(lambda x: f(ws, x))(x) ** 2).sum())(x),
    "inside-checkpoint": lambda f: jax.grad(jax.checkpoint(f), argnums=1),
    "closed-over": lambda f: jax.grad(lambda ws, x: zenith.checkpoint(lambda x: f(ws, x))(x * 2)),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations(name):
    judge(TRANSFORMATIONS[name], layers, zenith.checkpoint(layers, budget="40%"))


def test_without_jit():
    program = zenith.checkpoint(lambda w, x: jnp.tanh(jnp.tanh(x @ w) @ w).sum(), budget="30%")
    plain = jax.grad(program.__wrapped__)(WEIGHTS[0], X)
    np.testing.assert_allclose(jax.grad(program)(WEIGHTS[0], X), plain, rtol=1e-5, atol=1e-6)


# ---- What is kept ----


@pytest.fixture
def residuals(capsys):
    """The bytes that f keeps beside its arguments, and the lines in which JAX says so."""

    def measure(f, *args):
        print_saved_residuals(f, *args)
        lines = [line for line in capsys.readouterr().out.splitlines() if "from the argument" not in line]
        shapes = [re.match(r"(\w+?)(?:<host>)?\[([\d,]*)\]", line).groups() for line in lines]
        sizes = {"f32": 4, "bool": 1, "i32": 4, "pred": 1}
        return sum(sizes[dtype] * int(np.prod([int(n) for n in dims.split(",") if n])) for dtype, dims in shapes), lines

    return measure


def program(ws, x):
    for w in ws:
        x = jnp.tanh(x @ w) * jnp.exp(jnp.sin(x))
    return x.sum()


def test_what_is_kept_follows_the_budget(residuals):
    args = WEIGHTS, X
    # tanh, exp and sin of four layers.
    everything, lines = residuals(zenith.checkpoint(program, budget="100%"), *args)
    assert all("named 'zenith/" in line for line in lines)
    kept = [residuals(zenith.checkpoint(program, budget=f"{k}%"), *args)[0] for k in (0, 25, 50, 75)]
    assert kept == sorted(kept)
    assert kept[0] == 0
    assert all(size <= everything * share for size, share in zip(kept, (0, 0.25, 0.5, 0.75), strict=True))
    assert kept[2] > everything * 0.4
    assert residuals(zenith.checkpoint(program), *args)[0] == kept[2]
    # Less than what JAX keeps when left alone: 1 - tanh² and cos beside tanh and exp.
    assert everything < residuals(program, *args)[0]


def test_a_kept_result_serves_its_own_derivative(residuals):
    """jax.checkpoint would compute tanh again although checkpoint_name's copy of its result is kept."""
    f = zenith.checkpoint(lambda x: jnp.tanh(x).sum(), budget="100%")
    assert residuals(f, X)[0] == X.nbytes
    text = str(jax.make_jaxpr(jax.grad(f))(X))
    assert text.count(" tanh ") == 1
    named = jax.checkpoint(
        lambda x: checkpoint_name(jnp.tanh(x), "y").sum(),
        policy=jax.checkpoint_policies.save_only_these_names("y"),
    )
    assert str(jax.make_jaxpr(jax.grad(named))(X)).count(" tanh ") == 2


def test_kept_values_say_where_they_come_from(residuals):
    _, lines = residuals(zenith.checkpoint(program, budget="50%"), WEIGHTS, X)
    assert all("test_checkpoint.py" in line for line in lines)
    text = jax.jit(jax.grad(zenith.checkpoint(program, budget="0%"))).lower(WEIGHTS, X).as_text(debug_info=True)
    assert "test_checkpoint.py" in text
    assert not re.search(r"zenith_mlir/remat/apply\.py", text)


def stacked_bytes(gradient, *args):
    """What the forward loop of a gradient stacks."""
    loop = next(eqn for eqn in jax.make_jaxpr(gradient)(*args).jaxpr.eqns if eqn.primitive.name == "scan")
    stacked = loop.outvars[scan_arguments(loop)[1] :]
    return sum(v.aval.size * v.aval.dtype.itemsize for v in stacked)


def test_bodies_of_scans():
    """Checkpointed by hand, or found inside of a function that is."""

    def loss(ws, x, layer=block):
        return jax.lax.scan(lambda x, w: (layer(w, x), None), x, ws)[0].sum()

    plain = stacked_bytes(jax.grad(loss), STACKED, X)
    by_hand = stacked_bytes(jax.grad(functools.partial(loss, layer=zenith.checkpoint(block, budget="20%"))), STACKED, X)
    inside = stacked_bytes(jax.grad(zenith.checkpoint(loss, budget="20%")), STACKED, X)
    # The carry of each turn has to be kept, whatever the budget of the body.
    carries = X.nbytes * len(WEIGHTS)
    assert carries <= by_hand < plain
    assert carries <= inside < plain


def test_effects_happen_once():
    seen = []

    def loss(w, x):
        x = block(w, x)
        jax.debug.callback(lambda total: seen.append(float(total)), x.sum())
        return block(w, x).sum()

    jax.block_until_ready(jax.jit(jax.grad(zenith.checkpoint(loss, budget="0%")))(WEIGHTS[0], X))
    jax.effects_barrier()
    assert len(seen) == 1


# ---- Budgets in bytes ----


def wide(ws, x):
    for w in ws:
        x = x + jnp.tanh(jax.nn.gelu(x @ w) @ w)
    return (x**2).mean()


def wide_scanned(ws, x):
    return (jax.lax.scan(lambda x, w: (x + jnp.tanh(jax.nn.gelu(x @ w) @ w), None), x, ws)[0] ** 2).mean()


@pytest.mark.parametrize("loss", [wide, wide_scanned])
def test_the_budget_is_met_by_what_xla_allocates(loss):
    ws, x = np.ones((8, 64, 64), "float32"), np.ones((1024, 64), "float32")

    def temporaries(f):
        return jax.jit(jax.grad(f)).lower(ws, x).compile().memory_analysis().temp_size_in_bytes

    budget = 4_000_000 if loss is wide else 5_000_000
    plain, mine = temporaries(loss), temporaries(zenith.checkpoint(loss, budget=budget))
    assert plain > 2 * budget
    # Under scan XLA keeps one more carry, and a copy of it.
    assert mine <= budget * 1.1


def test_a_budget_that_cannot_be_met():
    with pytest.raises(Infeasible, match="infeasible: budget 100 bytes") as error:
        jax.eval_shape(zenith.checkpoint(chain, budget=100), WEIGHTS, X)
    minimum = error.value.minimum
    assert f"needs {minimum};" in str(error.value)
    jax.eval_shape(zenith.checkpoint(chain, budget=minimum), WEIGHTS, X)


def test_a_plan_is_made_once_for_equal_programs(monkeypatch):
    calls = []
    original = checkpoint_module.choose
    monkeypatch.setattr(checkpoint_module, "choose", lambda *args, **kw: calls.append(1) or original(*args, **kw))
    layer = zenith.checkpoint(block, budget="30%")
    jax.eval_shape(lambda ws, x: functools.reduce(lambda x, w: layer(w, x), ws, x), WEIGHTS, X)
    assert len(calls) == 1
    jax.eval_shape(layer, WEIGHTS[0], X[:2])
    jax.eval_shape(zenith.checkpoint(block, budget="30%"), WEIGHTS[0], X)
    assert len(calls) == 3


# ---- Offload ----


def test_values_go_to_the_host(residuals):
    """With the rates of a machine that has one; on CPU the copies are made within the same memory."""
    program = Program.of(jax.make_jaxpr(chain)(WEIGHTS, X))
    rates = replace(RATES["cpu"], host_bandwidth=1e15)
    chosen = choose(program, "fast", Budget.parse("0%"), rates, offload=True)
    assert chosen.away
    assert not choose(program, "fast", Budget.parse("0%"), rates).away

    def loss(ws, x):
        return run_segments(program, chosen, [*ws, x])[0]

    _, lines = residuals(loss, WEIGHTS, X)
    # No value goes there twice.
    assert len(lines) == len(chosen.away)
    assert all("<host>" in line for line in lines)
    judge(gradient, chain, loss, "float32")


# ---- Ways to call it ----


def test_as_a_decorator_and_on_methods():
    @zenith.checkpoint(budget="10%")
    def f(x, *, scale=1.0):
        """Doubles."""
        return jnp.sin(x * 2) * scale

    class Model:
        bias = 2.0

        @zenith.checkpoint
        def __call__(self, x):
            return x + self.bias

    assert (f.__name__, f.__doc__) == ("f", "Doubles.")
    np.testing.assert_allclose(f(X, scale=3.0), np.sin(X * 2) * 3, rtol=1e-5)
    np.testing.assert_allclose(Model()(X), X + 2)


def test_static_arguments():
    def f(x, mode, *, power=1):
        if mode not in ("sin", "cos"):
            raise KeyError(mode)
        return getattr(jnp, mode)(x) ** power if power > 1 else getattr(jnp, mode)(x)

    for numbers in (1, -1, (1,)):
        g = zenith.checkpoint(f, static_argnums=numbers, static_argnames="power")
        np.testing.assert_allclose(g(X, "sin", power=2), np.sin(X) ** 2, rtol=1e-5)
    with pytest.raises(jax.errors.ConcretizationTypeError) as error:
        zenith.checkpoint(f)(X, "sin", power=2)
    assert "static_argnums" in error.value.__notes__[-1]
    with pytest.raises(OptionError, match="static_argnums has 5"):
        zenith.checkpoint(f, static_argnums=5)(X, "sin")


def test_leaves_that_are_no_arrays():
    model = {"weights": X, "activation": jnp.tanh, "name": "layer", "none": None}
    f = zenith.checkpoint(lambda model: (model["activation"](model["weights"]), model["weights"], 3))
    value, weights, three = f(model)
    np.testing.assert_allclose(value, np.tanh(X), rtol=1e-6)
    np.testing.assert_array_equal(weights, X)
    assert three == 3
    key = jax.random.key(0)
    assert zenith.checkpoint(jax.random.bits)(key) == jax.random.bits(key)


@pytest.mark.parametrize(
    ("policy", "same"),
    [
        (None, None),
        ("nothing", jax.checkpoint_policies.nothing_saveable),
        ("dots", jax.checkpoint_policies.dots_saveable),
        ("everything", jax.checkpoint_policies.everything_saveable),
        (jax.checkpoint_policies.dots_saveable, jax.checkpoint_policies.dots_saveable),
    ],
)
def test_policies_of_jax(policy, same, residuals):
    mine, its = zenith.checkpoint(program, policy=policy), jax.checkpoint(program, policy=same)
    assert residuals(mine, WEIGHTS, X)[0] == residuals(its, WEIGHTS, X)[0]
    # Recognised when lowered; jax.checkpoint's own are left alone.
    texts = [jax.jit(jax.grad(f)).lower(WEIGHTS, X).as_text() for f in (mine, its)]
    assert ["cpu_compiler_options" in text for text in texts] == [True, False]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"policy": "optimum"}, OptionError, "did you mean optimal"),
        ({"policy": "dots", "budget": "50%"}, OptionError, "budget is for solvers, and the policy dots"),
        ({"policy": None, "offload": True}, OptionError, "offload is for solvers, and the policy None"),
        ({"budget": "much"}, SizeError, "much"),
        ({"budget": "150%"}, SizeError, "150%"),
        ({"prevent_cse": (True, False)}, OptionError, "prevent_cse is True or False"),
    ],
)
def test_mistakes_are_found_at_once(options, error, message):
    with pytest.raises(error, match=message):
        zenith.checkpoint(block, **options)


def test_prevent_cse_is_handed_on():
    for prevent in (True, False):
        f = zenith.checkpoint(program, budget="0%", prevent_cse=prevent)
        assert f"prevent_cse={prevent}" in str(jax.make_jaxpr(jax.grad(f))(WEIGHTS, X))
