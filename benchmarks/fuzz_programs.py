"""Near misses: programs with one thing changed, and whether what is still raised of them is true.

    python benchmarks/fuzz_programs.py [--seed N] [--count N] [--families losses,softmaxes,norms,activations,rotations]

A program of the tests is traced with its gradient, and an operation, a constant or an operand of it is exchanged. What
the composites of the result say is then compared with what they compute, in float64. Prints what is wrong; exits with
status 1 if anything is.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import zenith_mlir as zenith
from zenith_mlir.pipeline import PIPELINES

sys.path.insert(0, str(Path(__file__).parent.parent / "test"))

import norm_programs
import rotary_programs
from cross_entropy_programs import LOSSES, V
from raised import assert_attributes_hold, names
from softmax_programs import SOFTMAXES

Program = tuple[str, Callable[..., Any], tuple[Any, ...]]
RAISE = PIPELINES["default"].removesuffix(",lower-kernels")
X, Y, W = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(2, 3, 16), (2, 3, 16), (16,)]))
_VECTORS = (norm_programs.C, norm_programs.D)
ACTIVATIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), (X,)),
    "gelu, bias": (lambda x, b: jax.nn.gelu(x + b, approximate=False), (X, W)),
    "gelu, erf": (lambda x: 0.5 * x * (1 + jax.lax.erf(x / 2**0.5)), (X,)),
    "gelu, tanh": (jax.nn.gelu, (X,)),
    "silu": (jax.nn.silu, (X,)),
    "silu, quotient": (lambda x: x / (1 + jnp.exp(-x)), (X,)),
    "quick gelu": (lambda x: x * jax.nn.sigmoid(1.702 * x), (X,)),
    "swiglu": (lambda x, y: jax.nn.silu(x) * y, (X, Y)),
    "geglu, halves": (lambda x: jax.nn.gelu(x[..., :8]) * x[..., 8:], (X,)),
}


def scalar(function: Callable[..., Any]) -> Callable[..., Any]:
    """A loss whose cotangents differ from element to element."""
    return norm_programs.loss_of(function)


FAMILIES: dict[str, Callable[[], list[Program]]] = {
    "losses": lambda: [(p.name, p.function, p.arguments) for p in LOSSES],
    "softmaxes": lambda: [(p.name, p.function, p.arguments) for p in SOFTMAXES],
    "norms": lambda: [
        *((p.name, scalar(p.function), p.arguments) for p in norm_programs.SPELLINGS),
        *(
            (name, scalar(f), (x, norm_programs.C, norm_programs.D))
            for name, (f, x, *_) in norm_programs.GROUPS.items()
        ),
    ],
    "activations": lambda: [(name, scalar(f), arguments) for name, (f, arguments) in ACTIVATIONS.items()],
    "rotations": lambda: [(p.name, scalar(p.function), p.arguments) for p in rotary_programs.RAISED],
}
OTHER = {
    "add": "subtract", "subtract": "add", "multiply": "divide", "divide": "multiply", "negate": "abs", "and": "or",
    "log": "exponential", "exponential": "log", "maximum": "minimum", "GE": "GT", "LE": "LT", "LT": "LE", "EQ": "NE",
}  # fmt: skip
OPERATION = re.compile(
    r"stablehlo\.(add|subtract|multiply|divide|negate|and|log|exponential)\b"
    r"|compare (GE|LE|LT|EQ)|applies stablehlo\.(maximum|add)"
)
CONSTANT = re.compile(r"dense<(-?\d+\.\d+e[+-]\d+|-?\d+)>")
BINARY = re.compile(r"stablehlo\.(?:add|subtract|multiply|divide) (%\S+), (%\S+) : (\S+)")


def exchanged_operation(text: str, rng: random.Random) -> str:
    match = rng.choice(list(OPERATION.finditer(text)))
    name = next(group for group in match.groups() if group)
    end = match.end()
    return text[: end - len(name)] + OTHER[name] + text[end:]


def exchanged_constant(text: str, rng: random.Random) -> str:
    match = rng.choice(list(CONSTANT.finditer(text)))
    number = match.group(1)
    other = f"{float(number) * 1.5 + 0.25:e}" if "e" in number else str(int(number) + rng.choice([-1, 1]))
    return text[: match.start(1)] + other + text[match.end(1) :]


def exchanged_operand(text: str, rng: random.Random) -> str:
    match = rng.choice(list(BINARY.finditer(text)))
    same_type = re.compile(r"(%\S+) = stablehlo\.[^\n]*(?:-> |: )" + re.escape(match.group(3)) + r"\n")
    others = [found.group(1) for found in same_type.finditer(text[: match.start()])]
    which = rng.choice([1, 2])
    return text[: match.start(which)] + rng.choice(others or [match.group(which)]) + text[match.end(which) :]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES), help="comma-separated (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=20, help="changes of each program")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    unknown = [name for name in args.families.split(",") if name not in FAMILIES]
    if unknown:
        parser.error(f"no family {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    wrong = 0
    for family in args.families.split(","):
        wrong += fuzz(family, args.count, rng)
    return int(wrong > 0)


def fuzz(family: str, count: int, rng: random.Random) -> int:
    """Change each program of a family `count` times; returns how many composites say what is not so."""
    tried = raised = wrong = 0
    for name, function, arguments in FAMILIES[family]():
        text = zenith.trace(jax.value_and_grad(function), *arguments).run("prepare", target="none").text()
        for _ in range(count):
            change = rng.choice([exchanged_operation, exchanged_constant, exchanged_operand])
            try:
                changed = change(text, rng)
                module = zenith.Module.parse(changed)
            except (zenith.ZenithError, IndexError):
                continue
            tried += 1
            module = module.run(RAISE, target="none")
            if names(module):
                raised += 1
                try:
                    assert_attributes_hold(module, integers=V)
                except AssertionError as error:
                    wrong += 1
                    print(f"{family}, {name}, {change.__name__}: {error}\n{changed}")
    print(f"{family}: {tried} programs, {raised} with composites, {wrong} wrong", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
