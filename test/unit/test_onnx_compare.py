"""The comparison by which the ONNX benches call a model right (benchmarks/exporting/compare.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

pytestmark = pytest.mark.once

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def agreement(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from exporting.compare import agreement

    yield agreement
    for name in [name for name in sys.modules if name.split(".")[0] == "exporting"]:
        del sys.modules[name]


def f32(*numbers):
    return np.array(numbers, np.float32)


SAME = {
    "relative to the largest number": (f32(1e-3, 1000.005), f32(0, 1000)),
    "NaN and infinities in place": (f32(NAN, -INF, 1), f32(NAN, -INF, 1)),
    "nothing at all": (f32(), f32()),
    "all zero": (f32(0, 1e-6), f32(0, 0)),
    "half precision": (np.float16([1, 1.0009765625]), np.float16([1, 1])),
    "a rounding of bfloat16": (np.array([1.0078125], ml_dtypes.bfloat16), np.array([1], ml_dtypes.bfloat16)),
    "complex as pairs": (f32(1, 2).reshape(1, 2), np.array([1 + 2j], np.complex64)),
}
DIFFERENT = {
    "too far": (f32(0.02, 1000), f32(0, 1000)),
    "zeros that are none": (f32(0, 2e-5), f32(0, 0)),
    "a NaN that is none": (f32(NAN, 1), f32(1, 1)),
    "a number for NaN": (f32(1, 1), f32(NAN, 1)),
    "the other infinity": (f32(INF), f32(-INF)),
    "a number for infinity": (f32(3e38), f32(INF)),
    "another shape": (f32(1).reshape(1, 1), f32(1)),
    "integers by one": (np.int32([1, 1000001]), np.int32([1, 1000000])),
    "a boolean": (np.array([True]), np.array([False])),
    "double precision": (np.array([1 + 1e-6]), np.array([1.0])),
}


@pytest.mark.parametrize(("found", "expected"), SAME.values(), ids=SAME)
def test_the_same(agreement, found, expected):
    assert not agreement([found], [expected]).fault


@pytest.mark.parametrize(("found", "expected"), DIFFERENT.values(), ids=DIFFERENT)
def test_different(agreement, found, expected):
    assert agreement([found], [expected]).fault


def test_every_result_counts(agreement):
    assert agreement([f32(1)], [f32(1), f32(1)]).fault == "1 results, expected 2"
    assert agreement([f32(1), f32(2)], [f32(1), f32(1)]).fault.startswith("result 1: ")
    assert agreement([f32(1), f32(1.5)], [f32(1), f32(1)]).error == pytest.approx(0.5)


def test_another_dtype_is_told_and_is_no_fault(agreement):
    result = agreement([np.int64([3])], [np.int32([3])])
    assert not result.fault
    assert result.types == "result 0: int64, expected int32"
