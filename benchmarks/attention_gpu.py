"""Attention on a GPU: written plainly, the same under zenith, and JAX's cuDNN function called by hand.

    python benchmarks/attention_gpu.py [--repeats 15] [--quick] [--json results.json]

Forward, and forward with backward (the gradients of a sum with random weights). A row gives the median time of one call
in milliseconds, the temporary memory that XLA plans, how many calls of cuDNN the compiled program makes, and the
relative error ‖out - ref‖ / ‖ref‖ against the plain formula in float32, on one batch entry and a few heads. The three
variants are timed in turn; a time is that of many calls made one after the other and waited for once.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import zenith_mlir as zenith

HEADS_CHECKED = 2


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes of [batch, sequence, heads, depth] and what is computed."""

    batch: int
    seq: int
    heads: int
    depth: int
    causal: bool
    backward: bool

    def __str__(self) -> str:
        shape = f"{self.batch}x{self.seq}x{self.heads}x{self.depth}"
        return f"{shape:15} {'causal' if self.causal else 'full':6} {'fwd+bwd' if self.backward else 'fwd':7}"


SHAPES = [(32, 512, 16, 64), (8, 2048, 16, 128), (2, 8192, 16, 128)]
CASES = [Case(*shape, causal, backward) for backward in (False, True) for shape in SHAPES for causal in (False, True)]


@dataclasses.dataclass
class Row:
    """What was measured of one variant on one case."""

    case: Case
    variant: str
    median_ms: float
    minimum_ms: float
    temp_mib: float
    cudnn_calls: int
    error: float


def naive(q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool) -> jax.Array:
    """Attention as it is written in most places."""
    x = jnp.einsum("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5
    if causal:
        x = jnp.where(jnp.tril(jnp.ones(x.shape[-2:], bool)), x, -1e9)
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(x, axis=-1), v)


def by_hand(q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool) -> jax.Array:
    """The library function that does the same."""
    return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="cudnn")


def computation(attention: Callable[..., jax.Array], case: Case) -> Callable[..., Any]:
    """Of q, k, v and weights: the result, or with `backward` the gradients of the weighted sum of the result."""
    forward = functools.partial(attention, causal=case.causal)

    def weighted(q: jax.Array, k: jax.Array, v: jax.Array, weights: jax.Array) -> jax.Array:
        return (forward(q, k, v).astype(jnp.float32) * weights.astype(jnp.float32)).sum()

    return jax.grad(weighted, argnums=(0, 1, 2)) if case.backward else lambda q, k, v, weights: forward(q, k, v)


def arrays(case: Case, seed: int = 0) -> list[jax.Array]:
    """q, k, v and weights: random, in bfloat16."""
    shape = (case.batch, case.seq, case.heads, case.depth)
    return [jax.random.normal(key, shape, jnp.bfloat16) for key in jax.random.split(jax.random.key(seed), 4)]


def compiled(function: Callable[..., Any], arguments: Sequence[jax.Array], pipeline: str | None) -> Any:
    """`function` compiled for arguments like these, under a pipeline or without one."""
    with zenith.pipeline(pipeline) if pipeline else contextlib.nullcontext():
        return jax.jit(function).lower(*arguments).compile()


def milliseconds(program: Any, arguments: Sequence[jax.Array], calls: int) -> float:
    """The mean time of a call."""
    start = time.perf_counter()
    for _ in range(calls):
        result = program(*arguments)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) * 1e3 / calls


def relative_error(found: Any, case: Case, arguments: Sequence[jax.Array]) -> float:
    """Against the plain formula in float32, over the heads checked of the first batch entry."""
    few = [x[:1, :, :HEADS_CHECKED].astype(jnp.float32) for x in arguments]
    with jax.default_matmul_precision("highest"):
        wanted = jax.jit(computation(naive, case))(*few)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return max(_distance(x[:1, :, :HEADS_CHECKED], y) for x, y in pairs)


def _distance(found: jax.Array, wanted: jax.Array) -> float:
    x, y = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


VARIANTS: dict[str, tuple[Callable[..., jax.Array], str | None]] = {
    "as written": (naive, None),
    "zenith": (naive, "default"),
    "by hand": (by_hand, None),
}


def measure(case: Case, repeats: int, aimed_ms: float = 60.0) -> list[Row]:
    """All variants on one case, in turn."""
    arguments = arrays(case)
    programs = {
        name: compiled(computation(attention, case), arguments, pipeline)
        for name, (attention, pipeline) in VARIANTS.items()
    }
    errors = {name: relative_error(program(*arguments), case, arguments) for name, program in programs.items()}
    calls, times = {}, {name: list[float]() for name in programs}
    for name, program in programs.items():
        milliseconds(program, arguments, 3)
        calls[name] = max(3, round(aimed_ms / milliseconds(program, arguments, 5)))
    for _ in range(repeats):
        for name, program in programs.items():
            times[name].append(milliseconds(program, arguments, calls[name]))
    return [
        Row(
            case,
            name,
            statistics.median(times[name]),
            min(times[name]),
            program.memory_analysis().temp_size_in_bytes / 2**20,
            program.as_text().count('custom_call_target="__cudnn$fmha'),
            errors[name],
        )
        for name, program in programs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="timings of each variant, after a warm-up")
    parser.add_argument("--quick", action="store_true", help="only the smallest shape, five repeats")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    args = parser.parse_args()

    device = jax.devices()[0]
    target = zenith.Target.host()
    print(f"jax {jax.__version__}, {device.device_kind}, target {target}, cuDNN {target.cudnn}")
    print(f"{'':31} {'variant':11} {'median ms':>9} {'min':>8} {'temp MiB':>9} {'calls':>5} {'error':>9} {'speed':>6}")
    rows: list[Row] = []
    for case in [c for c in CASES if c.seq == 512] if args.quick else CASES:
        found = measure(case, 5 if args.quick else args.repeats)
        for row in found:
            print(
                f"{case!s:31} {row.variant:11} {row.median_ms:9.3f} {row.minimum_ms:8.3f} {row.temp_mib:9.1f} "
                f"{row.cudnn_calls:5} {row.error:9.1e} {found[0].median_ms / row.median_ms:6.2f}",
                flush=True,
            )
        rows += found
    if args.json:
        facts = {"jax": jax.__version__, "device": device.device_kind, "target": str(target), "cudnn": target.cudnn}
        with open(args.json, "w") as file:
            json.dump(facts | {"rows": [dataclasses.asdict(row) for row in rows]}, file, indent=1)


if __name__ == "__main__":
    main()
