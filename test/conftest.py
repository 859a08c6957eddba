"""XLA at its fastest to compile, and an option for runs that have to be short: one test in so many."""

from __future__ import annotations

import os
from importlib.metadata import version

import pytest

# The tests compile thousands of small programs and run each of them once. With what XLA does for programs that run long
# compiling took two thirds of their time. XLA reads this when it is first used, also in processes that tests start.
# XLA_FLAGS in the environment counts instead, also an empty one. jaxlib 0.12 has no choice of emitters.
QUICK = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
OLD_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
has_old_emitters = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)
os.environ.setdefault("XLA_FLAGS", " ".join([*QUICK, *([OLD_EMITTERS] if has_old_emitters else [])]))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--one-in", type=int, default=1, metavar="N", help="run one test in N of those selected")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    step = config.getoption("--one-in")
    config.hook.pytest_deselected(items=[item for i, item in enumerate(items) if i % step])
    items[:] = items[::step]
