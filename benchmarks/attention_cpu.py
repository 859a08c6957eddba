"""Attention on the CPU: the same jnp program as JAX compiles it, and with the kernels that the passes give it.

    python benchmarks/attention_cpu.py [--gradients] [--threads 2] [--repeats 9] [--quick]

With --gradients a step is the forward and the gradients of q, k and v. Both run in this process, in turn and pinned to
the same cores, on arrays laid out as [batch, heads, sequence, depth]. A row gives the median and the minimum in
milliseconds and the ratio XLA / kernel of the two; above 1 the kernel is faster.
"""

import argparse
import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

# However short the sequence: whether the kernel pays there is the question.
PIPELINE = "fuse-attention{min-seq=0}"


@dataclasses.dataclass(frozen=True)
class Case:
    dtype: str
    seq: int
    depth: int = 64
    causal: bool = False
    heads: int = 12

    def __str__(self) -> str:
        return f"{self.dtype:9} S {self.seq:<5} D {self.depth:<4} H {self.heads:<3} {'causal' if self.causal else '':6}"


LENGTHS = (32, 64, 128, 256, 512, 1024, 2048)
CASES = [
    *(
        Case(dtype, seq, causal=causal)
        for dtype in ("float32", "bfloat16")
        for causal in (False, True)
        for seq in LENGTHS
    ),
    *(Case("float32", seq, depth=depth) for depth in (32, 128) for seq in (128, 512)),
    Case("float32", 1024, heads=1),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gradients", action="store_true", help="forward and backward")
    parser.add_argument("--threads", type=int, default=1, help="cores to pin to and threads XLA may use")
    parser.add_argument("--repeats", type=int, default=9, help="timings of each, after a warm-up")
    parser.add_argument("--quick", action="store_true", help="only the first case of each length, three repeats")
    args = parser.parse_args()

    cores = sorted(os.sched_getaffinity(0))[-args.threads :]
    os.sched_setaffinity(0, cores)  # before jax: XLA makes as many threads as there are cores to run on
    import jax
    import jaxlib

    from zenith_mlir.kernels import cpu

    print(
        f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, {platform.machine()}, cores {cores}, "
        f"kernels on {cpu.instruction_set()}; {'forward + gradients' if args.gradients else 'forward'}, ms"
    )
    print(f"{'':44} {'XLA median':>10} {'min':>8} {'kernel median':>14} {'min':>8} {'ratio':>7} {'of min':>7}")
    for case in CASES[: len(LENGTHS)] if args.quick else CASES:
        xla, kernel = measure(case, args.gradients, 3 if args.quick else args.repeats)
        medians = statistics.median(xla), statistics.median(kernel)
        print(
            f"{case!s:44} {medians[0]:10.2f} {min(xla):8.2f} {medians[1]:14.2f} {min(kernel):8.2f} "
            f"{medians[0] / medians[1]:7.2f} {min(xla) / min(kernel):7.2f}",
            flush=True,
        )


def measure(case: Case, gradients: bool, repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of XLA and of the kernel, taken in turn."""
    import jax

    import zenith_mlir as zenith

    shape = (1, case.heads, case.seq, case.depth)
    inputs = [jax.random.normal(key, shape, case.dtype) for key in jax.random.split(jax.random.key(0), 4)]
    step = with_gradients(attention(case)) if gradients else attention(case)
    fused = zenith.jit(step, pipeline=PIPELINE, strict=True)
    assert fused.lower(*inputs).as_text().count("custom_call @zenith_attention") == 1 + gradients
    times: tuple[list[float], list[float]] = ([], [])
    functions: list[Callable[..., Any]] = [jax.jit(step), fused]
    for f in functions:
        jax.block_until_ready(f(*inputs))
    for _ in range(repeats):
        for f, taken in zip(functions, times, strict=True):
            calls = max(1, 2**20 // case.seq**2 // 8)
            time.sleep(0.05)  # XLA gives its large buffers back after the result is ready
            start = time.perf_counter()
            for _ in range(calls):
                jax.block_until_ready(f(*inputs))
            taken.append((time.perf_counter() - start) * 1e3 / calls)
    return times


def attention(case: Case) -> Callable[..., Any]:
    """The formula, in jnp; a fourth argument is not used."""
    import jax
    import jax.numpy as jnp

    def plain(q: jax.Array, k: jax.Array, v: jax.Array, _: jax.Array) -> jax.Array:
        x = jnp.einsum("bhtd,bhsd->bhts", q, k, preferred_element_type=jnp.float32) * case.depth**-0.5
        if case.causal:
            x = jnp.where(jnp.tril(jnp.ones((case.seq, case.seq), bool)), x, jnp.finfo(jnp.float32).min)
        return jnp.einsum("bhts,bhse->bhte", jax.nn.softmax(x).astype(v.dtype), v)

    return plain


def with_gradients(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Its result and the gradients of q, k and v along the fourth argument."""
    import jax

    def step(q: jax.Array, k: jax.Array, v: jax.Array, cotangent: jax.Array) -> Any:
        out, pullback = jax.vjp(lambda *operands: forward(*operands, cotangent), q, k, v)
        return out, pullback(cotangent)

    return step


if __name__ == "__main__":
    main()
