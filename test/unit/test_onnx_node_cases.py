"""Backend tests that the onnx package carries, of nodes written in JAX and exported again (benchmarks/onnx_nodes).

The whole of them is benchmarks/onnx_node_tests.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from unit.onnx_checks import agrees

import zenith_mlir as zenith
from zenith_mlir.onnx.run import Session

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from onnx_nodes.cases import Case, cases_of
from onnx_nodes.judge import judge

pytestmark = pytest.mark.once

# Files of onnx.backend.test.case.node that are quick to make, with every kind of operator between them.
FILES = {
    "argmax": ["test_argmax_default_axis_random_select_last_index"],
    "conv": ["test_conv_with_autopad_same", "test_conv_with_strides_and_asymmetric_padding"],
    "bitcast": ["test_bitcast_scalar_float32_to_int32"],
    "bitshift": ["test_bitshift_right_int8_shift_ge_width", "test_bitshift_left_uint16"],
    "clip": ["test_clip_min_greater_than_max", "test_clip_default_int8_inbounds"],
    "convinteger": ["test_convinteger_with_padding"],
    "convtranspose": ["test_convtranspose_kernel_shape", "test_convtranspose_group_2"],
    "cumsum": ["test_cumsum_1d_reverse_exclusive"],
    "depthtospace": ["test_depthtospace_crd_mode_example"],
    "dft": ["test_dft_inverse_opset19"],
    "div": ["test_div_int32_trunc"],
    "einsum": ["test_einsum_scalar", "test_einsum_batch_diagonal"],
    "gatherelements": ["test_gather_elements_negative_indices"],
    "gathernd": ["test_gathernd_example_int32_batch_dim1"],
    "if_": ["test_if"],
    "loop": ["test_loop11"],
    "mod": ["test_mod_mixed_sign_int8", "test_mod_int64_fmod"],
    "pad": ["test_wrap_pad", "test_constant_pad_negative_axes"],
    "reducel2": ["test_reduce_l2_empty_set"],
    "reducemax": ["test_reduce_max_bool_inputs", "test_reduce_max_empty_set"],
    "round": ["test_round"],
    "scan": ["test_scan9_sum"],
    "scatterelements": ["test_scatter_elements_with_duplicate_indices", "test_scatter_elements_with_negative_indices"],
    "scatternd": ["test_scatternd_multiply"],
    "slice": ["test_slice_negative_axes", "test_slice_neg_steps"],
    "topk": ["test_top_k_same_values_2d", "test_top_k_smallest"],
    "trilu": ["test_tril_zero", "test_triu_out_neg_out"],
}


@pytest.mark.parametrize("file", FILES)
def test_node(file: str) -> None:
    cases = {case.node.name: case for case in cases_of(file)}
    for name in FILES[file]:
        _check(cases[name])


def _check(case: Case) -> None:
    with jax.enable_x64(True):
        verdict = judge(case, (23,))
    assert verdict.jax == "" and verdict.models
    assert {where: what for where, what in verdict.models.items() if what} == {}


@pytest.mark.parametrize("opset", [17, 24])
def test_other_opsets(opset: int) -> None:
    for case in cases_of("reducesumsquare")[:2]:
        assert not any(judge(case, (opset,)).models.values())


def test_numbers_stay_numbers() -> None:
    """An input without dimensions reaches onnxruntime without."""
    export = zenith.export_onnx(lambda x: x + 1, (np.float32(2),), validate=False)
    (result,) = Session(export.model_bytes)([np.float32(2)])
    assert result.shape == () and result == 3


def test_reference_runs_loops() -> None:
    """It takes a Loop without a condition for one that never runs."""

    def doubled(x: Any) -> Any:
        return lax.fori_loop(0, 5, lambda i, y: y * 2 + jnp.sin(y), x)

    assert "Loop" in agrees(doubled, np.ones(3, np.float32), reference=True, tolerance=1e-6)


def test_reference_runs_cross_entropy() -> None:
    def loss(x: Any, labels: Any) -> Any:
        return zenith.ops.cross_entropy(x, labels)

    operators = agrees(
        loss,
        np.arange(15, dtype=np.float32).reshape(3, 5),
        np.array([0, 4, 2], np.int32),
        reference=True,
        tolerance=1e-6,
        passes="onnx",
    )
    assert "LogSoftmax" in operators
