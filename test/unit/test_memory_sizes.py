"""Sizes and budgets as people write them."""

import doctest
import math
import subprocess
import sys

import numpy as np
import pytest

from zenith_mlir.memory import sizes
from zenith_mlir.memory.sizes import Budget, SizeError, format_bytes, parse_bytes

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2GiB", 2 << 30),
        ("2GB", 2 * 10**9),
        ("512 mb", 512 * 10**6),
        (".5KiB", 512),
        ("1_000", 1000),
        ("1e3 kB", 10**6),
        ("0", 0),
        (7, 7),
        (2e9, 2 * 10**9),
        (np.int64(12), 12),
        ("0.3KiB", 307),  # 307.2: never more than was said
    ],
)
def test_sizes(text: str | float, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["2G", "2 bits", "-3", "", "GiB", "50%", "1e", "nan", True, None, 0.5, -1, math.inf])
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(SizeError, match=r"expected|has no unit"):
        parse_bytes(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),  # and not 1024.0 KiB
        (5 << 30, "5.0 GiB"),
        (-1536, "-1.5 KiB"),
        (3 << 60, "3072.0 PiB"),
    ],
)
def test_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(("text", "share"), [("50%", 500), ("33.3 %", 333), ("0%", 0), ("100%", 1000), ("4KiB", 4096)])
def test_budgets(text: str, share: int) -> None:
    budget = Budget.parse(text)
    assert budget.of(1000) == share
    assert Budget.parse(str(budget)) == budget
    assert Budget.parse(budget) is budget


@pytest.mark.parametrize("text", ["120%", "-5%", "%", "50%%", "half", 0.5])
def test_what_is_no_budget(text: str | float) -> None:
    with pytest.raises(SizeError, match="expected"):
        Budget.parse(text)


def test_what_the_documentation_says() -> None:
    assert doctest.testmod(sizes).failed == 0


def test_sizes_need_no_jax() -> None:
    code = "import sys, zenith_mlir.memory.sizes; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
