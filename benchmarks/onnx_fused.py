"""zenith ops in ONNX: what the converter chooses against the decomposition, on onnxruntime's CPU.

    python benchmarks/onnx_fused.py [--seconds 0.5] [--only attention]

One thread on one core, models taken in turns; times are medians, ratios medians of the ratios of neighbouring runs.
"decomposition" converts what the composite is made of, operation by operation; "opset 17" and "opset 23" are what is
chosen there.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import onnx_ir as oir
import onnxruntime

import zenith_mlir as zenith
from zenith_mlir import ops
from zenith_mlir.onnx.model import Interface, build_model
from zenith_mlir.onnx.options import Options

WAYS = {
    "decomposition": Options(fused="never"),
    "opset 17": Options(17),
    "opset 23": Options(23),
}


class Case(NamedTuple):
    name: str
    function: Callable[..., Any]
    arguments: tuple[jax.Array, ...]


def array(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), jnp.float32)


def padding(batch: int, columns: int) -> jax.Array:
    """Keys of which the last quarter does not count."""
    return jnp.broadcast_to(jnp.arange(columns) < columns * 3 // 4, (batch, 1, 1, columns))


def cases() -> Iterator[Case]:
    yield from rows()
    yield from attentions()
    yield from images()


def rows() -> Iterator[Case]:
    for shape in ((16, 64), (128, 768), (16, 4096)):
        x, w, text = array(*shape), array(shape[-1], seed=1), "x".join(map(str, shape))
        labels = jnp.arange(shape[0]) % shape[1]
        yield Case(f"softmax {text}", lambda x: ops.softmax(x), (x,))
        yield Case(f"log_softmax {text}", lambda x: ops.log_softmax(x), (x,))
        yield Case(f"layer_norm {text}", lambda x, w: ops.layer_norm(x, w, w), (x, w))
        yield Case(f"layer_norm, residual {text}", lambda x, w: ops.layer_norm(x, w, w, residual=x[::-1])[0], (x, w))
        yield Case(f"rms_norm {text}", lambda x, w: ops.rms_norm(x, w), (x, w))
        yield Case(f"gelu {text}", lambda x: ops.gelu(x, approximate=False), (x,))
        yield Case(f"gelu tanh {text}", lambda x: ops.gelu(x, approximate=True), (x,))
        yield Case(f"silu {text}", lambda x: ops.silu(x), (x,))
        yield Case(f"swiglu {text}", lambda x, y: ops.swiglu(x, y), (x, x[::-1]))
        yield Case(f"cross_entropy {text}", lambda x, y: ops.cross_entropy(x, y), (x, labels))
        yield Case(f"matmul, gelu {text}", lambda x, w: ops.matmul(x, w, activation="gelu"), (x, array(shape[-1], 64)))


def attentions() -> Iterator[Case]:
    def causal(q: Any, k: Any, v: Any) -> Any:
        return ops.attention(q, k, v, is_causal=True)

    def heads_first(q: Any, k: Any, v: Any) -> Any:
        return jax.nn.softmax(q @ k.swapaxes(-1, -2) * 0.125, -1) @ v

    def biased(q: Any, k: Any, v: Any, b: Any) -> Any:
        return ops.attention(q, k, v, bias=b)

    def masked(q: Any, k: Any, v: Any, m: Any) -> Any:
        return ops.attention(q, k, v, mask=m)

    def masked_and_causal(q: Any, k: Any, v: Any, m: Any) -> Any:
        return ops.attention(q, k, v, mask=m, is_causal=True)

    def rotated(x: Any, angles: Any) -> Any:
        return ops.rotary(x, jnp.cos(angles)[:, None], jnp.sin(angles)[:, None])

    for b, t, s, h, g, d in ((2, 64, 64, 12, 1, 64), (1, 256, 256, 8, 1, 64), (1, 1, 512, 4, 4, 128)):
        q, k, v = array(b, t, h * g, d), array(b, s, h, d, seed=1), array(b, s, h, d, seed=2)
        text = f"{b}x{t}x{s}x{h * g}/{h}x{d}"
        yield Case(f"attention {text}", lambda q, k, v: ops.attention(q, k, v), (q, k, v))
        yield Case(f"attention, causal {text}", causal, (q, k, v))
        yield Case(f"attention, padding {text}", masked, (q, k, v, padding(b, s)))
        yield Case(f"attention, padding, causal {text}", masked_and_causal, (q, k, v, padding(b, s)))
        yield Case(f"attention, bias {text}", biased, (q, k, v, array(b, h * g, t, s)))
        if g == 1:
            first = tuple(x.swapaxes(1, 2) for x in (q, k, v))
            yield Case(f"attention, heads first {text}", heads_first, first)
        yield Case(f"rotary {text}", rotated, (q, array(t, d // 2)))


def images() -> Iterator[Case]:
    def grouped(groups: int, last: bool) -> Callable[..., Any]:
        def norm(x: Any, w: Any) -> Any:
            axes = (1, 2, 4) if last else (2, 3, 4)
            shape = (*x.shape[:-1], groups, -1) if last else (x.shape[0], groups, -1, *x.shape[2:])
            y = x.reshape(shape)
            n = (y - y.mean(axes, keepdims=True)) * jax.lax.rsqrt(y.var(axes, keepdims=True) + 1e-5)
            return n.reshape(x.shape) * (w if last else w[:, None, None]) + 1.0

        return norm

    for size, channels, groups in ((16, 64, 8), (32, 32, 32), (8, 320, 32), (32, 128, 1)):
        text, w = f"{size}x{size}x{channels}/{groups}", array(channels, seed=1)
        yield Case(f"group_norm, channels last {text}", grouped(groups, True), (array(1, size, size, channels), w))
        yield Case(f"group_norm, channels first {text}", grouped(groups, False), (array(1, channels, size, size), w))


def sessions(case: Case) -> dict[str, tuple[Any, int]]:
    module = zenith.trace(case.function, *case.arguments).run("raise")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    found = {}
    for name, way in WAYS.items():
        model, _ = build_model(module, Interface(), way)
        data = oir.to_proto(model).SerializeToString()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        found[name] = session, len(model.graph)
    return found


def measure(case: Case, seconds: float) -> str:
    """A line of the table."""
    prepared = sessions(case)
    times: dict[str, list[float]] = {name: [] for name in prepared}
    feeds = {f"arg{i}": np.asarray(x) for i, x in enumerate(case.arguments)}
    results = {name: session.run(None, feeds)[0] for name, (session, _) in prepared.items()}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["opset 23"]) < 7:
        for name, (session, _) in prepared.items():
            start = time.perf_counter()
            session.run(None, feeds)
            times[name].append(time.perf_counter() - start)
    plain = times["decomposition"]
    scale = max(1e-9, float(np.abs(results["decomposition"]).max()))
    cells = [f"{case.name:48} {statistics.median(plain) * 1e3:9.3f} ms {prepared['decomposition'][1]:3}"]
    for name in ("opset 17", "opset 23"):
        ratio = statistics.median(b / a for a, b in zip(plain, times[name], strict=True))
        error = float(np.abs(results[name] - results["decomposition"]).max()) / scale
        cells.append(f"{ratio:6.2f} {prepared[name][1]:3} {error:8.0e}")
    return " | ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each case")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"{'':48} {'decomposition':>16} | {'opset 17':>19} | {'opset 23':>19}")
    print(f"{'':48} {'time, nodes':>16} | {'of it, nodes, error':>19} | {'of it, nodes, error':>19}")
    for case in cases():
        if arguments.only in case.name:
            print(measure(case, arguments.seconds), flush=True)


if __name__ == "__main__":
    main()
