"""Attention on the CPU: the kernel against XLA's own code for the plain formula.

    python benchmarks/attention_cpu.py [--threads 2] [--repeats 9] [--quick]

Both run in this process, in turn and pinned to the same cores, on arrays laid out as [batch, heads, sequence, depth].
A row gives the median and the minimum in milliseconds and the ratio XLA / kernel of the two; above 1 the kernel is
faster.
"""

import argparse
import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Case:
    dtype: str
    seq: int
    depth: int = 64
    causal: bool = False
    heads: int = 12

    def __str__(self) -> str:
        return f"{self.dtype:9} S {self.seq:<5} D {self.depth:<4} H {self.heads:<3} {'causal' if self.causal else '':6}"


CASES = [
    *(
        Case(dtype, seq, causal=causal)
        for dtype in ("float32", "bfloat16")
        for causal in (False, True)
        for seq in (128, 256, 512, 1024, 2048)
    ),
    *(Case("float32", seq, depth=depth) for depth in (32, 128) for seq in (128, 512)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        f"kernel on {cpu.instruction_set()}; ms"
    )
    print(f"{'':44} {'XLA median':>10} {'min':>8} {'kernel median':>14} {'min':>8} {'ratio':>7} {'of min':>7}")
    for case in CASES[:5] if args.quick else CASES:
        xla, kernel = measure(case, 3 if args.quick else args.repeats)
        medians = statistics.median(xla), statistics.median(kernel)
        print(
            f"{case!s:44} {medians[0]:10.2f} {min(xla):8.2f} {medians[1]:14.2f} {min(kernel):8.2f} "
            f"{medians[0] / medians[1]:7.2f} {min(xla) / min(kernel):7.2f}",
            flush=True,
        )


def measure(case: Case, repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of XLA and of the kernel, taken in turn."""
    import jax
    import jax.numpy as jnp

    from zenith_mlir.kernels.cpu.attention import Opcode, Step, attention_call

    shape = (1, case.heads, case.seq, case.depth)
    scale, masked = case.depth**-0.5, float(jnp.finfo(jnp.float32).min)
    q, k, v = (jax.random.normal(key, shape, case.dtype) for key in jax.random.split(jax.random.key(0), 3))

    def naive(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        x = jnp.einsum("bhtd,bhsd->bhts", q, k, preferred_element_type=jnp.float32) * scale
        if case.causal:
            x = jnp.where(jnp.tril(jnp.ones((case.seq, case.seq), bool)), x, masked)
        return jnp.einsum("bhts,bhse->bhte", jax.nn.softmax(x).astype(v.dtype), v)

    strides = [case.heads * case.seq * case.depth, case.seq * case.depth, case.depth, 1]
    steps = [Step(Opcode.SCALE, scale), *([Step(Opcode.BAND, masked, hi=0)] if case.causal else [])]

    def kernel(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attention_call(
            q,
            k,
            v,
            dims=shape[:2],
            sizes=(case.seq, case.seq, case.depth, case.depth),
            q_strides=strides,
            k_strides=strides,
            v_strides=strides,
            out_strides=strides,
            steps=steps,
            out_shape=shape,
            out_dtype=v.dtype,
        )

    functions: list[Callable[..., jax.Array]] = [jax.jit(naive), jax.jit(kernel)]
    times: tuple[list[float], list[float]] = ([], [])
    for f in functions:
        f(q, k, v).block_until_ready()
    for _ in range(repeats):
        for f, taken in zip(functions, times, strict=True):
            calls = max(1, 2**20 // case.seq**2 // 4)
            time.sleep(0.05)  # XLA gives its large buffers back after the result is ready
            start = time.perf_counter()
            for _ in range(calls):
                f(q, k, v).block_until_ready()
            taken.append((time.perf_counter() - start) * 1e3 / calls)
    return times


if __name__ == "__main__":
    main()
