"""Operators of neural networks: products, windows, normalisations, attention, losses."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from onnx_nodes.meaning import Meaning

__all__ = ["NETWORKS"]


# ---- products ----


def _gemm(node: Any, a: Any, b: Any, c: Any = None) -> Any:
    y = node["alpha"] * ((a.T if node["transA"] else a) @ (b.T if node["transB"] else b))
    return y if c is None else y + node["beta"] * c


def _without_zeros(x: Any, zero: Any, at: int) -> Any:
    """Integers less their zero point, which may be one for each slice of an axis."""
    if zero is None:
        return x.astype(jnp.int32)
    shape = [-1 if i == at % x.ndim else 1 for i in range(x.ndim)] if zero.size > 1 else ()
    return x.astype(jnp.int32) - zero.astype(jnp.int32).reshape(shape)


def _matmul_integer(node: Any, a: Any, b: Any, za: Any = None, zb: Any = None) -> Any:
    return _without_zeros(a, za, -2) @ _without_zeros(b, zb, -1)


def _qlinear_matmul(node: Any, a: Any, sa: Any, za: Any, b: Any, sb: Any, zb: Any, sy: Any, zy: Any) -> Any:
    product = _without_zeros(a, za, -2) @ _without_zeros(b, zb, -1)
    info = np.iinfo(zy.dtype)
    y = jnp.round(product * (sa * sb / sy).astype(jnp.float32)) + zy.astype(jnp.float32)
    return jnp.clip(y, int(info.min), int(info.max)).astype(zy.dtype)


# ---- windows ----


def _pads(node: Any, x: Any, kernel: Any) -> list[tuple[int, int]]:
    """Padding of the spatial axes, before and after; with ceil_mode so much that the last window is whole."""
    count = len(kernel)
    strides, dilations = node["strides"] or [1] * count, node["dilations"] or [1] * count
    pads = node["pads"] or [0] * 2 * count
    result = []
    for i, (size, k, stride, dilation) in enumerate(zip(x.shape[2:], kernel, strides, dilations, strict=True)):
        before, after, reach = pads[i], pads[i + count], (k - 1) * dilation + 1
        if (node["auto_pad"] or "NOTSET").startswith("SAME"):
            total = max(0, (-(-size // stride) - 1) * stride + reach - size)
            less, more = total // 2, total - total // 2
            before, after = (less, more) if node["auto_pad"] == "SAME_UPPER" else (more, less)
        elif node["auto_pad"] == "VALID":
            before = after = 0
        if node["ceil_mode"]:
            windows = -(-(size + before + after - reach) // stride) + 1
            if (windows - 1) * stride >= size + before:
                windows -= 1
            after = (windows - 1) * stride + reach - size - before
        result.append((before, after))
    return result


def _conv(node: Any, x: Any, w: Any, bias: Any = None) -> Any:
    spatial = w.ndim - 2
    y = lax.conv_general_dilated(
        x,
        w,
        node["strides"] or [1] * spatial,
        _pads(node, x, w.shape[2:]),
        rhs_dilation=node["dilations"],
        feature_group_count=node["group"],
    )
    return y if bias is None else y + bias.reshape(-1, *(1,) * spatial)


def _conv_integer(node: Any, x: Any, w: Any, zx: Any = None, zw: Any = None) -> Any:
    return _conv(node, _without_zeros(x, zx, 1), _without_zeros(w, zw, 0))


def _conv_transpose(node: Any, x: Any, w: Any, bias: Any = None) -> Any:
    spatial, group = w.ndim - 2, node["group"]
    strides, dilations = node["strides"] or [1] * spatial, node["dilations"] or [1] * spatial
    extra, pads = node["output_padding"] or [0] * spatial, list(node["pads"] or [0] * 2 * spatial)
    reach = [(k - 1) * d for k, d in zip(w.shape[2:], dilations, strict=True)]
    sizes = node["output_shape"] or ([n * s for n, s in zip(x.shape[2:], strides, strict=True)])
    if node["output_shape"] or node["auto_pad"].startswith("SAME"):
        for i in range(spatial):
            total = strides[i] * (x.shape[2 + i] - 1) + extra[i] + reach[i] + 1 - sizes[-spatial + i]
            half = total // 2
            low = total - half if node["auto_pad"] != "SAME_UPPER" else half
            pads[i], pads[i + spatial] = low, total - low
    i, o, *kernel = w.shape
    w = jnp.flip(w, range(2, w.ndim)).reshape(group, i // group, o, *kernel)
    w = jnp.swapaxes(w, 1, 2).reshape(group * o, i // group, *kernel)
    y = lax.conv_general_dilated(
        x,
        w,
        [1] * spatial,
        [(reach[i] - pads[i], reach[i] - pads[i + spatial] + extra[i]) for i in range(spatial)],
        lhs_dilation=strides,
        rhs_dilation=dilations,
        feature_group_count=group,
    )
    return y if bias is None else y + bias.reshape(-1, *(1,) * spatial)


def _windows(node: Any, x: Any, first: Any, combine: Any, pads: Any) -> Any:
    kernel = node["kernel_shape"]
    strides, dilations = node["strides"] or [1] * len(kernel), node["dilations"] or [1] * len(kernel)
    return lax.reduce_window(
        x, first, combine, (1, 1, *kernel), (1, 1, *strides), [(0, 0), (0, 0), *pads], None, (1, 1, *dilations)
    )


def _max_pool(node: Any, x: Any) -> Any:
    if len(node.outputs) > 1:
        raise NotImplementedError("places of the largest")
    lowest = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else np.iinfo(x.dtype).min
    return _windows(node, x, jnp.asarray(lowest, x.dtype), lax.max, _pads(node, x, node["kernel_shape"]))


def _average_pool(node: Any, x: Any) -> Any:
    pads = _pads(node, x, node["kernel_shape"])
    ones, rest = jnp.ones(x.shape, x.dtype), pads
    if node["count_include_pad"]:
        given = node["pads"] or [0] * 2 * len(pads)
        half = [(a, min(b, given[i + len(pads)])) for i, (a, b) in enumerate(pads)]
        if node["auto_pad"].startswith("SAME"):
            half = pads
        ones = jnp.pad(ones, [(0, 0), (0, 0), *half], constant_values=1)
        rest = [(0, b - d) for (_, b), (_, d) in zip(pads, half, strict=True)]
    return _windows(node, x, 0.0, lax.add, pads) / _windows(node, ones, 0.0, lax.add, rest)


def _lp_pool(node: Any, x: Any) -> Any:
    p = node["p"]
    return _windows(node, jnp.abs(x) ** p, 0.0, lax.add, _pads(node, x, node["kernel_shape"])) ** (1 / p)


# ---- normalisations ----


def _layer_norm(node: Any, x: Any, scale: Any, bias: Any = None) -> Any:
    axes = tuple(range(node["axis"] % x.ndim, x.ndim))
    mean = jnp.mean(x, axes, keepdims=True)
    inverse = lax.rsqrt(jnp.var(x, axes, keepdims=True) + node["epsilon"])
    y = (x - mean) * inverse * scale
    return (y if bias is None else y + bias, mean, inverse)[: len(node.outputs)]


def _rms_norm(node: Any, x: Any, scale: Any) -> Any:
    axes = tuple(range(node["axis"] % x.ndim, x.ndim))
    return x * lax.rsqrt(jnp.mean(jnp.square(x), axes, keepdims=True) + node["epsilon"]) * scale


def _channels(x: Any, row: Any) -> Any:
    return row.reshape(-1, *(1,) * (x.ndim - 2))


def _batch_norm(node: Any, x: Any, scale: Any, bias: Any, mean: Any, var: Any) -> Any:
    axes, keep = (0, *range(2, x.ndim)), node["momentum"]
    now, spread = (jnp.mean(x, axes), jnp.var(x, axes)) if node["training_mode"] else (mean, var)
    y = (x - _channels(x, now)) * lax.rsqrt(_channels(x, spread) + node["epsilon"])
    y = y * _channels(x, scale) + _channels(x, bias)
    return (y, mean * keep + now * (1 - keep), var * keep + spread * (1 - keep)) if node["training_mode"] else y


def _group_norm(node: Any, x: Any, scale: Any, bias: Any) -> Any:
    groups = x.reshape(x.shape[0], node["num_groups"], -1)
    mean, var = jnp.mean(groups, -1, keepdims=True), jnp.var(groups, -1, keepdims=True)
    y = ((groups - mean) * lax.rsqrt(var + node["epsilon"])).reshape(x.shape)
    return y * _channels(x, scale) + _channels(x, bias)


def _instance_norm(node: Any, x: Any, scale: Any, bias: Any) -> Any:
    axes = tuple(range(2, x.ndim))
    y = (x - jnp.mean(x, axes, keepdims=True)) * lax.rsqrt(jnp.var(x, axes, keepdims=True) + node["epsilon"])
    return y * _channels(x, scale) + _channels(x, bias)


def _lrn(node: Any, x: Any) -> Any:
    size = node["size"]
    pads = [(0, 0), ((size - 1) // 2, size // 2), (0, 0), (0, 0)]
    squares = lax.reduce_window(x * x, 0.0, lax.add, (1, size, 1, 1), (1, 1, 1, 1), pads)
    return x / (node["bias"] + node["alpha"] / size * squares) ** node["beta"]


def _lp_norm(node: Any, x: Any) -> Any:
    norm = jnp.linalg.norm(x, ord=node["p"], axis=node["axis"], keepdims=True)
    return jnp.where(norm == 0, 0, x / jnp.where(norm == 0, 1, norm))


def _mvn(node: Any, x: Any) -> Any:
    axes = tuple(node["axes"] or (0, 2, 3))
    return (x - jnp.mean(x, axes, keepdims=True)) / (jnp.std(x, axes, keepdims=True) + 1e-9)


# ---- attention ----


def _heads(x: Any, count: Any) -> Any:
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], count, -1).swapaxes(1, 2)


def _attention(
    node: Any, q: Any, k: Any, v: Any, mask: Any = None, key: Any = None, value: Any = None, lengths: Any = None
) -> Any:
    flat = q.ndim == 3
    q, k, v = _heads(q, node["q_num_heads"]), _heads(k, node["kv_num_heads"]), _heads(v, node["kv_num_heads"])
    k, v = (new if old is None else jnp.concatenate([old, new], 2) for old, new in ((key, k), (value, v)))
    kept, rows, columns = (k, v), q.shape[2], k.shape[2]
    k, v = (jnp.repeat(x, q.shape[1] // x.shape[1], 1) for x in (k, v))
    root = jnp.asarray(math.sqrt(node["scale"] or 1 / math.sqrt(q.shape[-1])), q.dtype)
    bias = jnp.zeros((rows, columns), q.dtype)
    if mask is not None:
        fill = False if mask.dtype == bool else -np.inf
        mask = jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, columns - mask.shape[-1])], constant_values=fill)
        bias = bias + (jnp.where(mask, 0, -jnp.inf).astype(q.dtype) if mask.dtype == bool else mask)
    if lengths is not None:
        inside = jnp.arange(columns) < lengths.reshape(-1, 1, 1, 1)
        bias = jnp.where(inside, bias, -jnp.inf)
    ahead = 0 if key is None else key.shape[2]
    offset = ahead if lengths is None or key is not None else lengths.reshape(-1, 1, 1, 1) - rows
    away = jnp.arange(columns) - (jnp.arange(rows)[:, None] + offset)
    left, right = (-1 if node[f"{side}_window_size"] is None else node[f"{side}_window_size"] for side in _SIDES)
    right = 0 if node["is_causal"] else right
    bias = bias if right < 0 else jnp.where(away <= right, bias, -jnp.inf)
    bias = bias if left < 0 else jnp.where(away >= -left, bias, -jnp.inf)
    scores = (q * root) @ (k * root).swapaxes(2, 3)
    capped = node["softcap"] * jnp.tanh(scores / node["softcap"]) if node["softcap"] else scores
    biased = (capped + bias).astype(q.dtype)
    weights = jax.nn.softmax(biased, axis=-1, where=jnp.isfinite(jnp.max(biased, -1, keepdims=True)))
    y = weights @ v
    y = y.swapaxes(1, 2).reshape(y.shape[0], rows, -1) if flat else y
    modes = (scores, capped, biased, weights)
    results = dict(zip(_RESULTS, (y, *kept, modes[node["qk_matmul_output_mode"] or 0]), strict=True))
    return tuple(result for result, name in zip(results.values(), node.outputs, strict=False) if name)


_SIDES = ("left", "right")
_RESULTS = ("Y", "present_key", "present_value", "qk_matmul_output")


def _rotary(node: Any, x: Any, cos: Any, sin: Any, places: Any = None) -> Any:
    flat = x.ndim == 3
    rows = x.reshape(*x.shape[:2], node["num_heads"], -1) if flat else x.swapaxes(1, 2)
    count = node["rotary_embedding_dim"] or rows.shape[-1]
    rows, rest = rows[..., :count], rows[..., count:]
    cos, sin = (table if places is None else table[places] for table in (cos, sin))
    cos, sin = (table[:, :, None, : count // 2] for table in (cos, sin))
    if node["interleaved"]:
        a, b = rows[..., ::2], rows[..., 1::2]
        turned = jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(rows.shape)
    else:
        a, b = jnp.split(rows, 2, -1)
        turned = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)
    y = jnp.concatenate([turned, rest], -1)
    return y.reshape(x.shape) if flat else y.swapaxes(1, 2)


# ---- recurrent networks, one layer ----


def _lstm(
    node: Any, x: Any, w: Any, r: Any, b: Any = None, lens: Any = None, h: Any = None, c: Any = None, p: Any = None
) -> Any:
    if node["direction"] != "forward" or node["layout"] or lens is not None:
        raise NotImplementedError("only forward, time first")
    size, batch = node["hidden_size"], x.shape[1]
    wb, rb = jnp.split(jnp.zeros(8 * size, x.dtype) if b is None else b[0], 2)
    pi, po, pf = jnp.split(jnp.zeros(3 * size, x.dtype) if p is None else p[0], 3)
    start = tuple(jnp.zeros((batch, size), x.dtype) if each is None else each[0] for each in (h, c))

    def step(state: Any, row: Any) -> Any:
        h, c = state
        i, o, f, g = jnp.split(row @ w[0].T + h @ r[0].T + wb + rb, 4, -1)
        c = jax.nn.sigmoid(f + pf * c) * c + jax.nn.sigmoid(i + pi * c) * jnp.tanh(g)
        h = jax.nn.sigmoid(o + po * c) * jnp.tanh(c)
        return (h, c), h

    (h, c), rows = lax.scan(step, start, x)
    every = (rows[:, None], h[None], c[None])
    return tuple(each for each, name in zip(every, node.outputs, strict=False) if name)


def _gru(node: Any, x: Any, w: Any, r: Any, b: Any = None, lens: Any = None, h: Any = None) -> Any:
    if node["direction"] != "forward" or node["layout"] or lens is not None:
        raise NotImplementedError("only forward, time first")
    size, batch = node["hidden_size"], x.shape[1]
    wb, rb = jnp.split(jnp.zeros(6 * size, x.dtype) if b is None else b[0], 2)
    start = jnp.zeros((batch, size), x.dtype) if h is None else h[0]

    def step(h: Any, row: Any) -> Any:
        xz, xr, xh = jnp.split(row @ w[0].T + wb, 3, -1)
        hz, hr, hh = jnp.split(h @ r[0].T + rb, 3, -1)
        z, reset = jax.nn.sigmoid(xz + hz), jax.nn.sigmoid(xr + hr)
        inner = hh if node["linear_before_reset"] else (reset * h) @ r[0][2 * size :].T + rb[2 * size :]
        new = jnp.tanh(xh + (reset * inner if node["linear_before_reset"] else inner))
        h = (1 - z) * new + z * h
        return h, h

    h, rows = lax.scan(step, start, x)
    return tuple(each for each, name in zip((rows[:, None], h[None]), node.outputs, strict=False) if name)


def _rnn(node: Any, x: Any, w: Any, r: Any, b: Any = None, lens: Any = None, h: Any = None) -> Any:
    if node["direction"] != "forward" or node["layout"] or lens is not None:
        raise NotImplementedError("only forward, time first")
    size, batch = node["hidden_size"], x.shape[1]
    wb, rb = jnp.split(jnp.zeros(2 * size, x.dtype) if b is None else b[0], 2)

    def step(h: Any, row: Any) -> Any:
        h = jnp.tanh(row @ w[0].T + h @ r[0].T + wb + rb)
        return h, h

    h, rows = lax.scan(step, jnp.zeros((batch, size), x.dtype) if h is None else h[0], x)
    return tuple(each for each, name in zip((rows[:, None], h[None]), node.outputs, strict=False) if name)


# ---- losses ----


def _nll(node: Any, logs: Any, labels: Any, weight: Any = None) -> Any:
    skipped = node["ignore_index"]
    kept = jnp.ones(labels.shape, bool) if skipped is None else labels != skipped
    safe = jnp.where(kept, labels, 0)
    loss = -jnp.take_along_axis(logs, jnp.expand_dims(safe, 1), 1).squeeze(1)
    scale = jnp.where(kept, 1 if weight is None else weight[safe], 0).astype(logs.dtype)
    loss = loss * scale
    if node["reduction"] == "none":
        return loss
    return jnp.sum(loss) if node["reduction"] == "sum" else jnp.sum(loss) / jnp.sum(scale)


def _cross_entropy(node: Any, x: Any, labels: Any, weight: Any = None) -> Any:
    logs = jax.nn.log_softmax(x, 1)
    loss = _nll(node, logs, labels, weight)
    return (loss, logs) if len(node.outputs) > 1 else loss


# ---- Fourier transforms ----


def _dft(node: Any, x: Any, length: Any = None, axis: Any = None) -> Any:
    over = int(node["axis"] if node["axis"] is not None else -2 if axis is None else axis)
    over = over if over >= 0 else over + x.ndim
    count = None if length is None else int(length)
    z = lax.complex(x[..., 0], x[..., 1] if x.shape[-1] == 2 else jnp.zeros_like(x[..., 0]))
    if node["onesided"] and node["inverse"]:
        return jnp.fft.irfft(z, count, over)[..., None]
    if node["onesided"]:
        z = jnp.fft.rfft(x[..., 0], count, over)
    else:
        z = (jnp.fft.ifft if node["inverse"] else jnp.fft.fft)(z, count, over)
    return jnp.stack([z.real, z.imag], -1)


NETWORKS: dict[str, Meaning] = {
    "Attention": Meaning(_attention),
    "AveragePool": Meaning(_average_pool),
    "BatchNormalization": Meaning(_batch_norm),
    "Conv": Meaning(_conv),
    "ConvInteger": Meaning(_conv_integer),
    "ConvTranspose": Meaning(_conv_transpose),
    "DFT": Meaning(_dft, known=(1, 2)),
    "Det": Meaning(lambda node, x: jnp.linalg.det(x)),
    "Einsum": Meaning(lambda node, *xs: jnp.einsum(node["equation"], *xs)),
    "GRU": Meaning(_gru),
    "Gemm": Meaning(_gemm),
    "GlobalAveragePool": Meaning(lambda node, x: jnp.mean(x, range(2, x.ndim), keepdims=True)),
    "GlobalMaxPool": Meaning(lambda node, x: jnp.max(x, range(2, x.ndim), keepdims=True)),
    "GroupNormalization": Meaning(_group_norm),
    "InstanceNormalization": Meaning(_instance_norm),
    "LRN": Meaning(_lrn),
    "LSTM": Meaning(_lstm),
    "LayerNormalization": Meaning(_layer_norm),
    "LpNormalization": Meaning(_lp_norm),
    "LpPool": Meaning(_lp_pool),
    "MatMul": Meaning(lambda node, a, b: jnp.matmul(a, b)),
    "MatMulInteger": Meaning(_matmul_integer),
    "MaxPool": Meaning(_max_pool),
    "MeanVarianceNormalization": Meaning(_mvn),
    "NegativeLogLikelihoodLoss": Meaning(_nll),
    "QLinearMatMul": Meaning(_qlinear_matmul),
    "RMSNormalization": Meaning(_rms_norm),
    "RNN": Meaning(_rnn),
    "RotaryEmbedding": Meaning(_rotary),
    "SoftmaxCrossEntropyLoss": Meaning(_cross_entropy),
}
