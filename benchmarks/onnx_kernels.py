"""Writes zenith_mlir/onnx/cpu_kernels.json: the element types for which onnxruntime's CPU has kernels, by opset.

    python benchmarks/onnx_kernels.py

A row is [first opset, last opset, types]; the types are those of the operand that carries the data.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

TARGET = Path(__file__).parents[1] / "zenith_mlir" / "onnx" / "cpu_kernels.json"
FIRST, LAST = 17, 26
# The name of the type variable of the data; most operators call it T.
DATA = {"OneHot": "T3", "Loop": "V", "If": "V", "QuantizeLinear": "T1", "DequantizeLinear": "T1", "Cast": "T1"}
NAMES = {"double": "DOUBLE", "float": "FLOAT"}


def main() -> None:
    table: dict[str, dict[tuple[int, int], set[str]]] = defaultdict(lambda: defaultdict(set))
    for kernel in state.get_all_opkernel_def():
        since, until = kernel.version_range
        if kernel.provider == "CPUExecutionProvider" and not kernel.domain and until >= FIRST and since <= LAST:
            table[kernel.op_name][since, until] |= _types(kernel)
    rows = {
        name: [[since, min(until, LAST), " ".join(sorted(types))] for (since, until), types in sorted(versions.items())]
        for name, versions in sorted(table.items())
    }
    lines = [f" {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items() if any(types for *_, types in row)]
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{len(lines)} operators of onnxruntime {onnxruntime.__version__} in {TARGET.name}")


def _types(kernel: object) -> set[str]:
    constraints: dict[str, list[str]] = kernel.type_constraints  # type: ignore[attr-defined]
    name = kernel.op_name  # type: ignore[attr-defined]
    for variable in (DATA.get(name, "T"), "T1", "T2"):
        if variable in constraints:
            tensors = [t.removeprefix("tensor(").removesuffix(")") for t in constraints[variable] if t[:7] == "tensor("]
            return {NAMES.get(each, each.upper()) for each in tensors}
    return set()


if __name__ == "__main__":
    main()
