"""Near misses of cross-entropy and softmax: programs with one thing changed, and whether what is still raised is true.

    python benchmarks/fuzz_losses.py [--seed N] [--count N] [NAME ...]

A program of test/cross_entropy_programs.py or test/softmax_programs.py is traced with its gradient, and an operation,
a constant or an operand of it is exchanged. What the composites of the result say is then compared with what they
compute, in float64. Prints what is wrong; exits with status 1 if anything is.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from pathlib import Path

import jax

import zenith_mlir as zenith

sys.path.insert(0, str(Path(__file__).parent.parent / "test"))

from cross_entropy_programs import LOSSES, V
from raised import assert_attributes_hold, names
from softmax_programs import SOFTMAXES

RAISE = "prepare,raise-cross-entropy,raise-softmax"
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
    parser.add_argument("names", nargs="*", metavar="NAME", help="of programs (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=20, help="changes of each program")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    tried = raised = wrong = 0
    for program in [*LOSSES, *SOFTMAXES]:
        if args.names and program.name not in args.names:
            continue
        text = (
            zenith.trace(jax.value_and_grad(program.function), *program.arguments).run("prepare", target="none").text()
        )
        for _ in range(args.count):
            change = rng.choice([exchanged_operation, exchanged_constant, exchanged_operand])
            changed = change(text, rng)
            try:
                module = zenith.Module.parse(changed)
            except zenith.ZenithError:
                continue
            tried += 1
            module = module.run(RAISE, target="none")
            if names(module):
                raised += 1
                try:
                    assert_attributes_hold(module, integers=V)
                except AssertionError as error:
                    wrong += 1
                    print(f"{program.name}, {change.__name__}: {error}\n{changed}")
    print(f"{tried} programs, {raised} with composites, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
