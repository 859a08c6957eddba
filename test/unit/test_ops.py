"""zenith.ops: that each op computes its formula, under every transformation, and lowers to its composite."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import zenith_mlir as zenith

ops = zenith.ops


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([*shape, seed]).normal(size=shape)


def layer_norm(x: Any, w: Any, b: Any) -> Any:
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b


def rms_norm(x: Any, w: Any, residual: Any) -> Any:
    s = x + residual
    return s / jnp.sqrt(jnp.square(s).mean(-1, keepdims=True) + 1e-6) * (1 + w), s


def swiglu(gate: Any, up: Any, b: Any, c: Any) -> Any:
    return jax.nn.silu(gate + b) * (up + c)


def cross_entropy(x: Any, labels: Any) -> Any:
    lse = jax.nn.logsumexp(x, axis=-1)
    target = 0.9 * jax.nn.one_hot(labels, x.shape[-1], dtype=x.dtype) + 0.1 / x.shape[-1]
    return -(target * jax.nn.log_softmax(x)).sum(-1) + 0.01 * lse**2


def rotary(x: Any, cos: Any, sin: Any) -> Any:
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos[:, None] - b * sin[:, None], b * cos[:, None] + a * sin[:, None]], axis=-1)


def attention(q: Any, k: Any, v: Any, bias: Any, mask: Any) -> Any:
    k, v = jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2)
    x = jnp.einsum("btnh,bsnh->bnts", q, k) / 2**0.5 + bias
    x = jnp.where(mask & np.tril(np.ones(x.shape[-2:], bool)), x, -jnp.inf)
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(x), v)


@dataclasses.dataclass(frozen=True)
class Case:
    """A call of an op, and the same in plain JAX. Operands are float64 arrays, or others, which do not move."""

    op: str
    call: Callable[..., Any]
    plain: Callable[..., Any]
    operands: tuple[np.ndarray, ...]
    variant: str = ""
    gradient: str = "vjp"  # what the backward is made of

    @property
    def moving(self) -> tuple[int, ...]:
        return tuple(i for i, x in enumerate(self.operands) if x.dtype == np.float64)

    def moved(self) -> tuple[Any, ...]:
        """The operands that move."""
        return tuple(jnp.asarray(self.operands[i]) for i in self.moving)

    def of_moving(self, function: Callable[..., Any], operands: Any = None) -> Callable[..., Any]:
        """`function` of the operands that move."""
        given = self.operands if operands is None else operands

        def of(*moved: Any) -> Any:
            at = dict(zip(self.moving, moved, strict=True))
            return function(*(at.get(i, x) for i, x in enumerate(given)))

        return of

    def __str__(self) -> str:
        return f"{self.op}-{self.variant}" if self.variant else self.op


X, W, B, R = array(3, 4), array(4, seed=1), array(4, seed=2), array(3, 4, seed=3)
LABELS = np.array([1, 0, 3])
Q, K, V = array(2, 3, 4, 2), array(2, 5, 2, 2, seed=1), array(2, 5, 2, 2, seed=2)
MASK = np.tril(np.ones((3, 5), bool), 2)[None, None]
ANGLES = array(3, 2)

CASES = [
    Case("layer_norm", ops.layer_norm, layer_norm, (X, W, B)),
    Case(
        "rms_norm",
        lambda x, w, r: ops.rms_norm(x, w, residual=r, offset=1.0),
        rms_norm,
        (X, W, R),
        "residual",
    ),
    Case("gelu", ops.gelu, jax.nn.gelu, (X,)),
    Case("gelu", lambda x, b: ops.gelu(x, False, bias=b), lambda x, b: jax.nn.gelu(x + b, False), (X, B), "bias"),
    Case("silu", ops.silu, jax.nn.silu, (X,)),
    Case("swiglu", lambda g, u, b, c: ops.swiglu(g, u, bias=(b, c)), swiglu, (X, R, W, B), "bias"),
    Case(
        "swiglu",
        lambda x: ops.swiglu(x, activation="sigmoid", halves="gate_last"),
        jax.nn.glu,
        (X,),
        "glu",
    ),
    Case("softmax", ops.softmax, jax.nn.softmax, (X,)),
    Case(
        "log_softmax",
        lambda x: ops.log_softmax(x, 0),
        lambda x: jax.nn.log_softmax(x, 0),
        (X,),
        "columns",
    ),
    Case(
        "cross_entropy",
        lambda x, labels: ops.cross_entropy(x, labels, label_smoothing=0.1, z_loss=0.01),
        cross_entropy,
        (X, LABELS),
    ),
    Case(
        "rotary",
        lambda x, cos, sin: ops.rotary(x, cos[:, None], sin[:, None]),
        rotary,
        (array(2, 3, 2, 4), np.cos(ANGLES), np.sin(ANGLES)),
    ),
    Case("matmul", ops.matmul, jnp.matmul, (array(2, 3, 4), array(4, 2)), gradient="matmul"),
    Case(
        "matmul",
        lambda x, y, b, r: ops.matmul(x, y, bias=b, activation="silu", residual=r),
        lambda x, y, b, r: jax.nn.silu(x @ y + b) + r,
        (X, array(4, 2), array(2), array(3, 2)),
        "epilogue",
        gradient="matmul",
    ),
    Case(
        "attention",
        lambda q, k, v, bias, mask: ops.attention(q, k, v, bias, mask, is_causal=True),
        attention,
        (Q, K, V, array(1, 4, 3, 5), MASK),
    ),
]


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """Numbers that compare well, and little time for the compiler."""
    unoptimised = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", unoptimised)


def assert_same(got: Any, want: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), got, want)


def derivatives(function: Callable[..., Any], x: tuple[Any, ...], d: tuple[Any, ...]) -> dict[str, Any]:
    """Of all kinds, along d, up to the second order."""

    def loss(*x: Any) -> Any:
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(function(*x)))

    def along(gradients: Any) -> Any:
        return sum((g * v).sum() for g, v in zip(gradients, d, strict=True))

    every = tuple(range(len(x)))
    gradient = jax.grad(loss, every)
    return {
        "value": function(*x),
        "jvp": jax.jvp(function, x, d)[1],
        "grad": gradient(*x),
        "forward over reverse": jax.jvp(gradient, x, d)[1],
        "reverse over reverse": jax.grad(lambda *x: along(gradient(*x)), every)(*x),
        "reverse over forward": jax.grad(lambda *x: jax.jvp(loss, x, d)[1], every)(*x),
        "forward over forward": jax.jvp(lambda *x: jax.jvp(loss, x, d)[1], x, d)[1],
        "checkpoint": jax.grad(jax.checkpoint(loss), every)(*x),
    }


@pytest.mark.parametrize("case", CASES, ids=str)
def test_derivatives_of_all_kinds(case: Case) -> None:
    x, d = case.moved(), tuple(array(*x.shape, seed=7) for x in case.moved())
    both = jax.jit(lambda x: [derivatives(case.of_moving(f), x, d) for f in (case.call, case.plain)])(x)
    for name, value in both[0].items():
        try:
            assert_same(value, both[1][name])
        except AssertionError as error:
            raise AssertionError(name) from error


@pytest.mark.parametrize("op", ["gelu", "softmax", "cross_entropy"])
def test_numerical_derivatives(op: str) -> None:
    case = next(case for case in CASES if case.op == op)
    check_grads(jax.jit(case.of_moving(case.call)), case.moved(), 2, ["fwd", "rev"], 1e-5, 1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_eager_is_jit(case: Case) -> None:
    assert_same(case.call(*case.operands), jax.jit(case.call)(*case.operands))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_vmap_is_a_loop(case: Case) -> None:
    """All operands mapped, each along another axis; each alone; and their gradients one by one."""
    count, many = 3, len(case.operands)
    axes = [min(i, x.ndim) for i, x in enumerate(case.operands)]
    stacked = [np.stack([x, np.roll(x, 1), x[::-1]], axis) for x, axis in zip(case.operands, axes, strict=True)]

    def gradients(*operands: Any) -> Any:
        """Of each operand, as an example of its own."""
        at = [operands[i] for i in case.moving]

        def loss(at: Any) -> Any:
            function = case.of_moving(case.call, operands)
            return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(function(*at)))

        return case.call(*operands), jax.grad(loss)(at)

    def all_ways(stacked: Any) -> Any:
        for mapped in {tuple(range(many)), *((i,) for i in range(many))}:
            dims = [axes[i] if i in mapped else None for i in range(many)]
            operands = [stacked[i] if i in mapped else case.operands[i] for i in range(many)]
            rows = [
                [jnp.take(x, n, axis=dim) if dim is not None else x for x, dim in zip(operands, dims, strict=True)]
                for n in range(count)
            ]
            loop = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(gradients(*row) for row in rows))
            yield jax.vmap(gradients, dims)(*operands), loop

    for got, want in jax.jit(lambda stacked: list(all_ways(stacked)))(stacked):
        assert_same(got, want)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_program_has_composites(case: Case) -> None:
    """Also under vmap, where a kernel takes the axis; the gradient is a composite of its own."""

    def loss(*operands: Any) -> Any:
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(case.call(*operands)))

    gradient = {"vjp": f"zenith.{case.op}_vjp", "matmul": "zenith.matmul"}[case.gradient]
    text = jax.jit(jax.grad(loss)).lower(*case.operands).as_text()
    assert composites(text)[0] == f"zenith.{case.op}"
    assert gradient in composites(text)[1:]
    mapped = [0, *[None] * (len(case.operands) - 1)]
    if case.op == "swiglu" and case.variant == "bias":
        mapped[1] = 0
    wide = [np.stack([x, x]) if dim == 0 else x for x, dim in zip(case.operands, mapped, strict=True)]
    assert composites(jax.jit(jax.vmap(case.call, mapped)).lower(*wide).as_text()) == [f"zenith.{case.op}"]


def composites(text: str) -> list[str]:
    return re.findall(r'stablehlo.composite "([^"]+)"', text)


def test_weights_that_are_mapped_leave_the_formula() -> None:
    text = jax.jit(jax.vmap(ops.layer_norm)).lower(X[None], W[None]).as_text()
    assert composites(text) == []


def test_hessian() -> None:
    def loss(function: Any) -> Any:
        return lambda x: jnp.sin(function(x)).sum()

    assert_same(*jax.jit(lambda x: [jax.hessian(loss(f))(x) for f in (ops.softmax, jax.nn.softmax)])(X))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtypes(dtype: Any) -> None:
    """Results have the dtype that they say, and so have gradients."""
    for case in CASES:
        operands = [x.astype(dtype) if x.dtype == np.float64 else x for x in map(jnp.asarray, case.operands)]
        expected = jnp.float32 if case.op == "cross_entropy" else dtype
        found = jax.eval_shape(case.call, *operands)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(expected)}

        def loss(*operands: Any, case: Case = case) -> Any:
            return sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(case.call(*operands)))

        gradients = jax.eval_shape(jax.grad(loss, case.moving), *operands)
        assert [(g.shape, g.dtype) for g in gradients] == [(operands[i].shape, dtype) for i in case.moving]


def test_attention_is_that_of_jax() -> None:
    """Every argument that both have, in float32, where jax.nn has its softmax."""
    q, k, v = (jnp.asarray(x, jnp.float32) for x in (Q, K, V))
    lengths, mask = jnp.array([2, 3], jnp.int32), jnp.asarray(MASK)
    variants: list[dict[str, Any]] = [
        {},
        {"scale": 0.3, "mask": mask, "is_causal": True},
        {"local_window_size": (1, 2)},
        {"local_window_size": 1, "is_causal": True},
        {"query_seq_lengths": lengths, "key_value_seq_lengths": lengths + 1},
        {"bias": jnp.asarray(array(4, 3, 5), jnp.float32)},
    ]

    def both() -> Any:
        for arguments in variants:
            yield ops.attention(q, k, v, **arguments), jax.nn.dot_product_attention(q, k, v, **arguments)

    for got, want in jax.jit(lambda: list(both()))():
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    capped = ops.attention(q[0], k[0], v[0], logits_soft_cap=0.5)
    x = jnp.einsum("tnh,snh->nts", q[0], jnp.repeat(k[0], 2, axis=1)) / 2**0.5
    weights = jax.nn.softmax(0.5 * jnp.tanh(x / 0.5))
    wanted = jnp.einsum("nts,snh->tnh", weights, jnp.repeat(v[0], 2, axis=1))
    np.testing.assert_allclose(capped, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("columns", [2, 4])
def test_rotary_forms(interleaved: bool, columns: int) -> None:
    """Some of the features, tables of a column a pair or a feature, gathered positions."""
    x = array(2, 3, 2, 6)
    angles = array(2, 3, 2)
    to_features = (lambda t: np.repeat(t, 2, -1)) if interleaved else (lambda t: np.concatenate([t, t], -1))
    table = angles if columns == 2 else to_features(angles)
    got = ops.rotary(x, np.cos(table)[:, :, None], np.sin(table)[:, :, None], interleaved=interleaved, rotated=4)
    a, b = (x[..., 0:4:2], x[..., 1:4:2]) if interleaved else (x[..., :2], x[..., 2:4])
    z = (a + 1j * b) * np.exp(1j * angles)[:, :, None]
    turned = np.stack([z.real, z.imag], -1).reshape(2, 3, 2, 4) if interleaved else np.concatenate([z.real, z.imag], -1)
    assert_same(got, np.concatenate([turned, x[..., 4:]], -1))


def test_matmul_shapes() -> None:
    """Those of jnp.matmul."""
    for x, y in [((4,), (4,)), ((4,), (4, 2)), ((3, 4), (4,)), ((2, 3, 4), (2, 4, 5)), ((3, 4), (2, 4, 5))]:
        assert_same(ops.matmul(array(*x), array(*y)), np.matmul(array(*x), array(*y)))
    wide = ops.matmul(array(5, 1, 3, 4), array(2, 4, 5))
    assert_same(wide, np.matmul(array(5, 1, 3, 4), array(2, 4, 5)))
    assert ops.matmul(X.astype("bfloat16"), X.T.astype("bfloat16"), preferred_element_type="float32").dtype == "float32"


def test_softmax_where() -> None:
    where = np.array([True, False, True, True])
    for ours, theirs in ((ops.softmax, jax.nn.softmax), (ops.log_softmax, jax.nn.log_softmax)):
        assert_same(ours(X, where=where), theirs(X, where=where))
        assert_same(ours(array(2, 3, 4), (0, 2)), theirs(array(2, 3, 4), (0, 2)))


def test_labels_outside() -> None:
    losses = ops.cross_entropy(X, np.array([-1, 9, 2]))
    assert np.isnan(losses[1])
    np.testing.assert_allclose(losses[0], -jax.nn.log_softmax(X)[0, 3])
    assert_same(ops.cross_entropy(X, np.array([-1, 9, 2]), outside="zero")[:2], np.zeros(2))


REFUSED = [
    (lambda: ops.layer_norm(X.astype(int)), TypeError, "x is int64[3,4], expected floating-point numbers"),
    (lambda: ops.layer_norm(X, R), ValueError, "weight has shape [3, 4], expected [4]"),
    (lambda: ops.layer_norm(X, axis=0), ValueError, "expected the last axis or several up to the last"),
    (lambda: ops.rms_norm(X, offset=1.0), ValueError, "offset is 1.0 and there is no weight"),
    (lambda: ops.gelu("x"), TypeError, "x is str, expected an array"),
    (lambda: ops.silu(X, bias=X), ValueError, "bias has shape [3, 4], expected [4]"),
    (lambda: ops.swiglu(X, X.T), ValueError, "up has shape [4, 3], expected [3, 4]"),
    (lambda: ops.swiglu(X[:, :3]), ValueError, "gate has 3 features and there is no up"),
    (lambda: ops.swiglu(X, activation="swish"), ValueError, "activation is 'swish', expected one of 'gelu'"),
    (lambda: ops.swiglu(X, X, bias=B), ValueError, "bias is 1 arrays, expected 2"),
    (lambda: ops.softmax(X, 2), ValueError, "axis is 2, expected one or several of the 2 axes"),
    (lambda: ops.softmax(X, where=X), TypeError, "where is float64[3,4], expected booleans"),
    (lambda: ops.softmax(X, where=X.T > 0), ValueError, "where has shape [4, 3], expected one that broadcasts"),
    (lambda: ops.cross_entropy(X, B), TypeError, "labels is float64[4], expected integers"),
    (lambda: ops.cross_entropy(X, X.astype(int)), ValueError, "of one-hot labels take labels.argmax(-1)"),
    (lambda: ops.cross_entropy(X, LABELS, outside="nan"), ValueError, "outside is 'nan', expected one of"),
    (lambda: ops.rotary(Q, X, X), ValueError, "cos has shape [3, 4], expected 2 or 1 columns"),
    (lambda: ops.rotary(Q, array(3, 2), array(3, 2)), ValueError, "insert axes of size one"),
    (lambda: ops.rotary(Q, W, X), ValueError, "sin has shape [3, 4], expected [4], that of cos"),
    (lambda: ops.matmul(X, X), ValueError, "expected as many columns of x as rows of y, not 4 and 3"),
    (lambda: ops.matmul(X, X.T, bias=B), ValueError, "bias has shape [4], expected one that broadcasts"),
    (lambda: ops.matmul(X, X.T, activation="elu"), ValueError, "activation is 'elu', expected one of"),
    (lambda: ops.matmul(X, LABELS), TypeError, "y is int64[3], expected floating-point numbers"),
    (lambda: ops.attention(Q, K, V.astype("float32")), TypeError, "expected one dtype"),
    (lambda: ops.attention(Q[:, :, :3], K, V), ValueError, "query has 3 heads and key 2, expected a multiple"),
    (lambda: ops.attention(Q, K[0], V), ValueError, "key has shape [5, 2, 2], expected [B, S, K, H]"),
    (lambda: ops.attention(Q, K, V[:, :4]), ValueError, "value has shape [2, 4, 2, 2], expected as many rows"),
    (lambda: ops.attention(X, X, X), ValueError, "expected [B, T, N, H] or [T, N, H]"),
    (lambda: ops.attention(Q, K, V, mask=MASK * 1.0), TypeError, "expected booleans, True where an element counts"),
    (lambda: ops.attention(Q, K, V, array(7, 5)), ValueError, "expected one that broadcasts to [B, N, T, S]"),
    (lambda: ops.attention(Q, K, V, key_value_seq_lengths=LABELS), ValueError, "expected [2], one length an element"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_errors_say_what_was_expected(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    """Where the op is called, also under jit, before anything is lowered."""
    for run in (call, lambda: jax.eval_shape(call)):
        with pytest.raises(error, match=re.escape(message)) as caught:
            run()
        assert str(caught.value).startswith("zenith.ops.")
