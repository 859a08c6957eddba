"""An unmodified Hugging Face Flax BERT under plain jax.jit, with and without the pipeline.

    python examples/bert_demo.py --seq 1024 --layers 4

Prints how many sites were found and fused, what the passes remarked, the time of both (interleaved; median
and minimum), the error of both against the same model computed in float64, and the certificate of each fusion.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from transformers import BertConfig, FlaxBertModel

import zenith_mlir as zenith
from zenith_mlir.certify import certify_composites

Forward = Callable[..., jax.Array]


def bert(args: argparse.Namespace, dtype: Any) -> FlaxBertModel:
    config = BertConfig(
        vocab_size=30522,
        hidden_size=768,
        num_hidden_layers=args.layers,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=max(512, args.seq),
    )
    return FlaxBertModel(config, input_shape=(1, args.seq), seed=0, dtype=dtype)


def forward_of(model: FlaxBertModel) -> Forward:
    def forward(params: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return model(ids, attention_mask=mask, params=params).last_hidden_state

    return forward


def inputs(args: argparse.Namespace) -> tuple[jax.Array, jax.Array]:
    """Random tokens; each sequence but the first is padded at its end."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 30522, (args.batch, args.seq))
    lengths = args.seq - np.arange(args.batch) * (args.seq // 4) - args.seq // 8
    mask = np.arange(args.seq)[None, :] < lengths[:, None]
    return jnp.asarray(ids, jnp.int32), jnp.asarray(mask, jnp.int32)


def float64_run(args: argparse.Namespace, params: Any) -> np.ndarray:
    """The judge: the library's own model, told to compute in float64 on the same weights."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), params)
        return np.asarray(jax.jit(forward_of(bert(args, jnp.float64)))(wide, *inputs(args)))


def measure(calls: dict[str, Callable[[], jax.Array]], repeat: int) -> dict[str, list[float]]:
    """Milliseconds of each call, in turn, so that both see the same machine."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeat):
        for name, call in calls.items():
            start = time.perf_counter()
            call().block_until_ready()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq", type=int, default=1024, help="tokens in a sequence (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="sequences (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="encoder layers (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=7, help="timed runs of each (default: %(default)s)")
    args = parser.parse_args()
    console = Console()

    model = bert(args, jnp.float32)
    arguments = (model.params, *inputs(args))
    encode = jax.jit(forward_of(model))

    def plain() -> jax.Array:
        return encode(*arguments)

    def fused() -> jax.Array:
        with zenith.pipeline("default"):
            return encode(*arguments)

    with zenith.pipeline("default") as scope:
        encode(*arguments)
    results = {"as written": np.asarray(plain()), "with zenith": np.asarray(fused())}
    times = measure({"as written": plain, "with zenith": fused}, args.repeat)
    judge = float64_run(args, model.params)
    visible = np.asarray(arguments[2], bool)

    console.print(
        f"FlaxBertModel, {args.layers} layers, batch {args.batch}, sequence {args.seq}, float32; "
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {os.cpu_count()} cores"
    )
    table = Table("", "median ms", "minimum ms", "max |error| against float64")
    for name, result in results.items():
        error = np.abs(result[visible] - judge[visible]).max()
        table.add_row(name, f"{statistics.median(times[name]):.1f}", f"{min(times[name]):.1f}", f"{error:.2e}")
    console.print(table)
    before, after = (statistics.median(times[name]) for name in results)
    console.print(f"{before / after:.2f}x as fast (median)")

    raised = sum(remark.kind == "passed" and remark.pass_name.startswith("raise-") for remark in scope.remarks)
    lowered = sum(remark.kind == "passed" and remark.pass_name == "lower-kernels" for remark in scope.remarks)
    console.print(f"\nattention, norms and GELU: {raised} sites found, {lowered} fused, in {args.layers} layers")
    for remark in scope.remarks:
        console.print(remark.text(), highlight=False, markup=False, soft_wrap=True)

    console.print("\ncertificates (each distinct fusion against float64, ordinary and adversarial inputs)")
    raised_module = zenith.trace(encode, *arguments).run("prepare,raise-attention", target="none")
    for certificate in certify_composites(raised_module):
        console.print(certificate.summary, highlight=False, markup=False)


if __name__ == "__main__":
    main()
