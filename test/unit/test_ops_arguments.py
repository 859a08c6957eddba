"""zenith.ops: the forms of their arguments, and what they say of those that do not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ops_cases import LABELS, MASK, B, K, Q, R, V, W, X, array, little_optimised, ops


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with little_optimised(), jax.enable_x64(True):
        yield


def assert_same(got: Any, want: Any) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-10)


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
    (lambda: ops.layer_norm(None), TypeError, "x is NoneType, expected an array"),
    (lambda: ops.matmul(X, None), TypeError, "y is NoneType, expected an array"),
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


@pytest.mark.once
@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_errors_say_what_was_expected(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    """Where the op is called, also under jit, before anything is lowered."""
    for run in (call, lambda: jax.eval_shape(call)):
        with pytest.raises(error, match=re.escape(message)) as caught:
            run()
        assert str(caught.value).startswith("zenith.ops.")
