"""The tests of the kernels again on narrower instruction sets. A process chooses one, once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zenith_mlir.kernels import cpu

pytestmark = pytest.mark.once

INSTRUCTION_SETS = ("portable", "avx2", "avx512", "avx512bf16", "amx")

# Of each file the tests that run again, as pytest -k takes them; first of kernels that have code for every set.
PRODUCTS = {
    "test_kernel_attention.py": "dtypes or test_steps or ragged or few_queries or bfloat16 or fully_masked or sizes",
    "test_kernel_attention_vjp.py": "narrow_types or test_steps or ragged or layouts or the_logits_are",
    "test_kernel_matmul.py": (
        "several_blocks or (dtypes and bfloat16) or (adversarial and equal) or stay or (ragged and 40)"
    ),
}
OTHERS = {
    "test_kernel_activation.py": "gradients or special or shapes or (gated and bfloat16)",
    "test_kernel_cross_entropy.py": "131 or options or 777 or 9001-float32",
    "test_kernel_norm.py": "131 or each_part or 9001 or 1500",
    "test_kernel_rotary.py": "(pairings and not float16) or (partial and float32) or many",
    "test_kernel_softmax.py": "131 or scales or 777",
    "test_vec_math.py": "",
}
WHOLE = "test_vec_math.py"

# Of the tests of a file one in so many runs, others for each set; all do with ZENITH_TEST_ALL=1.
EVERY = 1 if "ZENITH_TEST_ALL" in os.environ else 3

# On one thread: the process that starts it has one a core. The first file that fails is the last to run. Sanitizers
# write to file descriptor 2, which pytest must leave alone for their reports to come back.
PROGRAM = """
import os, sys
core, first, every, whole, folder, *chosen = sys.argv[1:]
os.sched_setaffinity(0, {int(core)})
import pytest
from zenith_mlir.kernels import cpu

class Some:
    def __init__(self, file):
        self.step = 1 if file == whole else int(every)

    def pytest_collection_modifyitems(self, items):
        items[:] = items[int(first) % self.step :: self.step]
        assert items

print("on", cpu.instruction_set())
plain = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--capture=sys", "--assert=plain"]
for file, keywords in zip(chosen[::2], chosen[1::2]):
    status = pytest.main([*plain, f"{folder}/{file}", "-k", keywords], plugins=[Some(file)])
    if status:
        sys.exit(status)
"""


@pytest.mark.parametrize("isa", INSTRUCTION_SETS[:-1])
def test_kernels_on_a_narrower_instruction_set(isa: str) -> None:
    if INSTRUCTION_SETS.index(isa) >= INSTRUCTION_SETS.index(cpu.instruction_set()):
        pytest.skip(f"{isa} is not narrower than what this process uses")
    cores, worker = sorted(os.sched_getaffinity(0)), os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    core, first = cores[int(worker[2:]) % len(cores)], INSTRUCTION_SETS.index(isa)
    chosen = PRODUCTS | OTHERS if isa in ("portable", "avx2") else PRODUCTS
    run = subprocess.run(
        [
            *(sys.executable, "-c", PROGRAM),
            *map(str, (core, first, EVERY, WHOLE, Path(__file__).parent)),
            *(text for item in chosen.items() for text in item),
        ],
        env={**os.environ, "ZENITH_CPU_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert run.stdout.startswith(f"on {isa}\n")
    assert run.stdout.count(" passed") == len(chosen)
