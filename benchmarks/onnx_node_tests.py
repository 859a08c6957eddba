"""The backend tests that onnx carries, the other way round: each node as a function of JAX, exported again.

    python benchmarks/onnx_node_tests.py [--only Conv,MaxPool] [--opsets 17,20,23,24] [--fused always] [--details]

A test is a node, its inputs and what comes out. Here the node is written in JAX (onnx_nodes/). Where JAX computes what
the test expects, so has the model of `export_onnx`, which onnx's checker takes, on onnxruntime and on onnx.reference.
"jax" counts the tests that JAX agrees with; the rest of the row is of those. Tests whose types or sizes JAX has not are
left out.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections import defaultdict

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1")

import jax
from onnx_nodes.cases import all_cases
from onnx_nodes.judge import Verdict, judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="operators, with commas between")
    parser.add_argument("--opsets", default="23")
    parser.add_argument("--fused", default="measured", choices=["measured", "always", "never"])
    parser.add_argument("--details", action="store_true", help="print every test that does not agree")
    options = parser.parse_args()
    only = set(options.only.split(",")) if options.only else None
    opsets = tuple(int(each) for each in options.opsets.split(","))
    warnings.simplefilter("ignore")
    verdicts: dict[str, dict[str, Verdict]] = defaultdict(dict)
    with jax.enable_x64(True):
        for case in all_cases():
            if only is None or case.node.op in only:
                verdict = judge(case, opsets, options.fused)
                if verdict.jax is not None:
                    verdicts[case.node.op][case.node.name] = verdict
                if options.details:
                    _print_details(case.node.name, verdict)
    _print_table(verdicts, opsets)


def _print_details(name: str, verdict: Verdict) -> None:
    if verdict.jax:
        print(f"{name}: jax: {verdict.jax}", flush=True)
    for (opset, where), what in verdict.models.items():
        if what:
            print(f"{name}: {where} {opset}: {what}", flush=True)


def _print_table(verdicts: dict[str, dict[str, Verdict]], opsets: tuple[int, ...]) -> None:
    columns = [(opset, where) for opset in opsets for where in ("onnxruntime", "reference")]
    print("| operator | tests | jax |" + "".join(f" {where} {opset} |" for opset, where in columns) + " refused |")
    print("|---|" + "---|" * (len(columns) + 3))
    totals = [0] * (len(columns) + 3)
    for op, tests in sorted(verdicts.items()):
        agreed = [each for each in tests.values() if not each.jax]
        refused = sum(any(what.startswith("refused") for what in each.models.values()) for each in agreed)
        row = [len(tests), len(agreed), *(sum(not v.models[c] for v in agreed) for c in columns), refused]
        totals = [a + b for a, b in zip(totals, row, strict=True)]
        print(f"| {op} | " + " | ".join(map(str, row)) + " |")
    print(f"| {len(verdicts)} operators | " + " | ".join(map(str, totals)) + " |")


if __name__ == "__main__":
    main()
