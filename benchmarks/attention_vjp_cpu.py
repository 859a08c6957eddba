"""The gradients of attention on the CPU: the kernels against XLA's own code for the plain formula.

    python benchmarks/attention_vjp_cpu.py [--threads 2] [--repeats 7] [--quick]

A step is the forward and the gradients of q, k and v, under one jit. XLA differentiates the plain formula and keeps the
probabilities; the kernels keep two numbers of each row. Both run in this process, in turn and pinned to the same cores,
on arrays laid out as [batch, heads, sequence, depth]. A row gives the median and the minimum in milliseconds and the
ratio XLA / kernels of the two; above 1 the kernels are faster.
"""

import argparse
import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any


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
        for seq in (32, 64, 128, 256, 512, 1024)
    ),
    *(Case("float32", seq, depth=depth) for depth in (32, 128) for seq in (128, 512)),
    Case("float32", 1024, heads=1),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="cores to pin to and threads XLA may use")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each, after a warm-up")
    parser.add_argument("--quick", action="store_true", help="only the first case of each length, three repeats")
    args = parser.parse_args()

    cores = sorted(os.sched_getaffinity(0))[-args.threads :]
    os.sched_setaffinity(0, cores)  # before jax: XLA makes as many threads as there are cores to run on
    import jax
    import jaxlib

    from zenith_mlir.kernels import cpu

    print(
        f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, {platform.machine()}, cores {cores}, "
        f"kernels on {cpu.instruction_set()}; ms"
    )
    print(f"{'':44} {'XLA median':>10} {'min':>8} {'kernel median':>14} {'min':>8} {'ratio':>7} {'of min':>7}")
    for case in CASES[:6] if args.quick else CASES:
        xla, kernel = measure(case, 3 if args.quick else args.repeats)
        medians = statistics.median(xla), statistics.median(kernel)
        print(
            f"{case!s:44} {medians[0]:10.2f} {min(xla):8.2f} {medians[1]:14.2f} {min(kernel):8.2f} "
            f"{medians[0] / medians[1]:7.2f} {min(xla) / min(kernel):7.2f}",
            flush=True,
        )


def measure(case: Case, repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of XLA and of the kernels, taken in turn."""
    import jax

    inputs = [
        jax.random.normal(key, (1, case.heads, case.seq, case.depth), case.dtype)
        for key in jax.random.split(jax.random.key(0), 4)
    ]
    functions: list[Callable[..., Any]] = [jax.jit(plain(case)), jax.jit(with_kernels(case))]
    times: tuple[list[float], list[float]] = ([], [])
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


def plain(case: Case) -> Callable[..., Any]:
    """The formula and its gradients as JAX differentiates it."""
    import jax
    import jax.numpy as jnp

    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        x = jnp.einsum("bhtd,bhsd->bhts", q, k, preferred_element_type=jnp.float32) * case.depth**-0.5
        if case.causal:
            x = jnp.where(jnp.tril(jnp.ones((case.seq, case.seq), bool)), x, jnp.finfo(jnp.float32).min)
        return jnp.einsum("bhts,bhse->bhte", jax.nn.softmax(x).astype(v.dtype), v)

    def step(q: jax.Array, k: jax.Array, v: jax.Array, cotangent: jax.Array) -> Any:
        out, pullback = jax.vjp(attention, q, k, v)
        return out, pullback(cotangent)

    return step


def with_kernels(case: Case) -> Callable[..., Any]:
    """The same by the implementations that lowering would choose."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from zenith_mlir.dialects.attention import AttentionSpec, Step
    from zenith_mlir.dialects.attention_vjp import AttentionVjpSpec, Gradient
    from zenith_mlir.dialects.implementation import Request, TensorSpec
    from zenith_mlir.dialects.layout import Layout
    from zenith_mlir.kernels.cpu import attention_implementation, attention_vjp_implementation
    from zenith_mlir.target import Target

    axes = {"b": 1, "h": case.heads, "t": case.seq, "s": case.seq, "d": case.depth, "e": case.depth}
    q, k, v, out = (Layout.parse(f"b h {last}") for last in ("t d", "s d", "s e", "t e"))
    band = Step("band", high=0, value=float(jnp.finfo(jnp.float32).min))
    steps = (Step("scale", value=case.depth**-0.5), *([band] if case.causal else []))
    spec = AttentionSpec(axes, q, k, v, out, steps=steps, residuals=True)
    vjp_spec = AttentionVjpSpec(spec, out, (Gradient(0, q), Gradient(1, k), Gradient(2, v)))
    array = TensorSpec(out.shape(axes), np.dtype(jnp.dtype(case.dtype)))
    row = TensorSpec(spec.rows.shape(axes), np.dtype(np.float32))
    target = Target.parse("cpu")
    forward = attention_implementation.build(Request(spec, (array,) * 3, (array, row, row), target, 0))
    operands = (array, array, array, array, row, row, array)
    backward = attention_vjp_implementation.build(Request(vjp_spec, operands, (array,) * 3, target, 0))

    def step(q: jax.Array, k: jax.Array, v: jax.Array, cotangent: jax.Array) -> Any:
        residuals = forward(q, k, v)
        return residuals[0], backward(q, k, v, *residuals, cotangent)

    return step


if __name__ == "__main__":
    main()
