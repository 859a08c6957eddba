"""Operators that move elements: shapes, slices, gathers, scatters."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from onnx import helper

from onnx_nodes.meaning import Meaning, numbers

__all__ = ["MOVES"]


def _reshape(node: Any, x: Any, shape: Any) -> Any:
    sizes = numbers(shape) or []
    return x.reshape([x.shape[i] if n == 0 and not node["allowzero"] else n for i, n in enumerate(sizes)])


def _flatten(node: Any, x: Any) -> Any:
    return x.reshape(int(np.prod(x.shape[: node["axis"]])), -1)


def _expand(node: Any, x: Any, shape: Any) -> Any:
    return jnp.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(numbers(shape) or ())))


def _slice(node: Any, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    firsts, lasts = numbers(starts) or [], numbers(ends) or []
    by, over = numbers(steps) or [1] * len(firsts), numbers(axes) or list(range(len(firsts)))
    cut = [slice(None)] * x.ndim
    for axis, first, last, step in zip(over, firsts, lasts, by, strict=True):
        size = x.shape[axis]
        below = last + size < 0 if step < 0 else False
        cut[axis] = slice(first, None if below else last, step)
    return x[tuple(cut)]


def _split(node: Any, x: Any, sizes: Any = None) -> Any:
    axis, count = node["axis"], len(node.outputs)
    each = -(-x.shape[axis] // count)
    parts = numbers(sizes) or node["split"] or [each] * (count - 1)
    ends = np.cumsum(parts[: count - 1]) if count > 1 else []
    return tuple(jnp.split(x, list(map(int, ends)), axis))


def _pad(node: Any, x: Any, pads: Any, value: Any = None, axes: Any = None) -> Any:
    over, amounts = numbers(axes) or list(range(x.ndim)), numbers(pads) or []
    width = [(0, 0)] * x.ndim
    for place, axis in enumerate(over):
        width[axis] = (amounts[place], amounts[place + len(over)])
    if node["mode"] != "constant":
        return jnp.pad(x, width, mode=node["mode"])
    number = jnp.zeros((), x.dtype) if value is None else jnp.asarray(value).reshape(())
    padded = lax.pad(x, number, [(min(a, 0), min(b, 0), 0) for a, b in width])
    return lax.pad(padded, number, [(max(a, 0), max(b, 0), 0) for a, b in width])


def _wrapped(indices: Any, size: int) -> Any:
    return jnp.where(indices < 0, indices + size, indices)


def _gather(node: Any, x: Any, indices: Any) -> Any:
    return jnp.take(x, _wrapped(indices, x.shape[node["axis"]]), axis=node["axis"])


def _gather_elements(node: Any, x: Any, indices: Any) -> Any:
    axis = node["axis"] % x.ndim
    places = [lax.broadcasted_iota(indices.dtype, indices.shape, i) for i in range(x.ndim)]
    places[axis] = indices
    return x[tuple(places)]


def _gather_nd(node: Any, x: Any, indices: Any) -> Any:
    batch = node["batch_dims"]
    lead = [lax.broadcasted_iota(indices.dtype, indices.shape[:-1], i) for i in range(batch)]
    return x[(*lead, *(indices[..., i] for i in range(indices.shape[-1])))]


def _at(x: Any, places: Any, updates: Any, how: str | None) -> Any:
    at = x.at[places]
    return {"none": at.set, "add": at.add, "mul": at.multiply, "max": at.max, "min": at.min}[how or "none"](updates)


def _scatter_elements(node: Any, x: Any, indices: Any, updates: Any) -> Any:
    places = [lax.broadcasted_iota(indices.dtype, indices.shape, i) for i in range(x.ndim)]
    places[node["axis"] % x.ndim] = indices
    return _at(x, tuple(places), updates, node["reduction"])


def _scatter_nd(node: Any, x: Any, indices: Any, updates: Any) -> Any:
    return _at(x, tuple(indices[..., i] for i in range(indices.shape[-1])), updates, node["reduction"])


def _tensor_scatter(node: Any, past: Any, update: Any, starts: Any = None) -> Any:
    axis, count = node["axis"] % past.ndim, past.shape[node["axis"]]
    starts = jnp.zeros(past.shape[0], jnp.int64) if starts is None else starts
    places = [lax.broadcasted_iota(starts.dtype, update.shape, i) for i in range(past.ndim)]
    places[axis] = places[axis] + starts.reshape(-1, *(1,) * (past.ndim - 1))
    if node["mode"] == "circular":
        places[axis] = places[axis] % count
    return past.at[tuple(places)].set(update)


def _one_hot(node: Any, indices: Any, depth: Any, values: Any) -> Any:
    (depth,), axis = numbers(depth) or [1], node["axis"]
    places = _wrapped(indices.astype(jnp.int64), depth)
    axis = axis % (indices.ndim + 1)
    number = lax.broadcasted_iota(jnp.int64, (*indices.shape[:axis], depth, *indices.shape[axis:]), axis)
    return jnp.where(jnp.expand_dims(places, axis) == number, values[1], values[0])


def _trilu(node: Any, x: Any, k: Any = None) -> Any:
    (k,) = [0] if k is None else numbers(k) or [0]
    return jnp.triu(x, k) if node["upper"] else jnp.tril(x, k)


def _eye(node: Any, x: Any) -> Any:
    kind = helper.tensor_dtype_to_np_dtype(node["dtype"]) if node["dtype"] else x.dtype
    return jnp.eye(*x.shape, k=node["k"] or 0, dtype=kind) + 0 * x.astype(kind)


def _depth_to_space(node: Any, x: Any) -> Any:
    n, c, h, w = x.shape
    b = node["blocksize"]
    if node["mode"] == "DCR":
        return x.reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)
    return x.reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c // b**2, h * b, w * b)


def _space_to_depth(node: Any, x: Any) -> Any:
    n, c, h, w = x.shape
    b = node["blocksize"]
    order = (0, 1, 3, 5, 2, 4) if node["mode"] == "CRD" else (0, 3, 5, 1, 2, 4)
    return x.reshape(n, c, h // b, b, w // b, b).transpose(order).reshape(n, c * b * b, h // b, w // b)


def _reverse_sequence(node: Any, x: Any, lengths: Any) -> Any:
    time, batch = node["time_axis"], node["batch_axis"]
    x = jnp.moveaxis(x, (batch, time), (0, 1))
    steps = jnp.arange(x.shape[1])[None]
    places = jnp.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    return jnp.moveaxis(x[jnp.arange(x.shape[0])[:, None], places], (0, 1), (batch, time))


def _shape(node: Any, x: Any) -> Any:
    return jnp.asarray(x.shape[node["start"] or 0 : node["end"]], jnp.int64)


def _resize(node: Any, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    """Upsampling of whole blocks by the nearest element."""
    if (node["coordinate_transformation_mode"], node["nearest_mode"]) not in _REPEATS:
        raise NotImplementedError("only repetition")
    factors = [float(s) for s in scales] if sizes is None else [n / d for n, d in zip(sizes, x.shape, strict=False)]
    if node["mode"] != "nearest" or node["axes"] or any(f != int(f) or f < 1 for f in factors):
        raise NotImplementedError("only repetition")
    for axis, factor in enumerate(factors):
        x = jnp.repeat(x, int(factor), axis)
    return x


# With the defaults, and where coordinates are rounded down: each element comes as often as the factor says.
_REPEATS = {("half_pixel", "round_prefer_floor"), ("asymmetric", "floor"), (None, None)}

MOVES: dict[str, Meaning] = {
    "Compress": Meaning(lambda node, x, keep: jnp.take(x, np.flatnonzero(keep), node["axis"]), known=(1,)),
    "Concat": Meaning(lambda node, *xs: jnp.concatenate(xs, node["axis"])),
    "DepthToSpace": Meaning(_depth_to_space),
    "Expand": Meaning(_expand, known=(1,)),
    "EyeLike": Meaning(_eye),
    "Flatten": Meaning(_flatten),
    "Gather": Meaning(_gather),
    "GatherElements": Meaning(_gather_elements),
    "GatherND": Meaning(_gather_nd),
    "OneHot": Meaning(_one_hot, known=(1,)),
    "Pad": Meaning(_pad, known=(1, 3)),
    "Reshape": Meaning(_reshape, known=(1,)),
    "Resize": Meaning(_resize, known=(1, 2, 3)),
    "ReverseSequence": Meaning(_reverse_sequence),
    "Scatter": Meaning(_scatter_elements),
    "ScatterElements": Meaning(_scatter_elements),
    "ScatterND": Meaning(_scatter_nd),
    "Shape": Meaning(_shape),
    "Size": Meaning(lambda node, x: jnp.asarray(x.size, jnp.int64)),
    "Slice": Meaning(_slice, known=(1, 2, 3, 4)),
    "SpaceToDepth": Meaning(_space_to_depth),
    "Split": Meaning(_split, known=(1,)),
    "Squeeze": Meaning(lambda node, x, axes=None: jnp.squeeze(x, numbers(axes)), known=(1,)),
    "TensorScatter": Meaning(_tensor_scatter),
    "Tile": Meaning(lambda node, x, times: jnp.tile(x, numbers(times)), known=(1,)),
    "Transpose": Meaning(lambda node, x: jnp.transpose(x, node["perm"])),
    "Trilu": Meaning(_trilu, known=(1,)),
    "Unsqueeze": Meaning(lambda node, x, axes: jnp.expand_dims(x, tuple(numbers(axes) or ())), known=(1,)),
    "Upsample": Meaning(lambda node, x, scales: _resize(node, x, None, scales), known=(1,)),
}
