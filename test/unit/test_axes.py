"""Axes followed through shape operations: views on both sides of an operation agree, and reshapes split what they
must.
"""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import zenith_mlir as zenith
from zenith_mlir.ir.facts import shape, walk
from zenith_mlir.match.axes import AxisSpace, View, dot_operand_views, dot_other_view, operand_view, result_view


def op_of(text: str, name: str) -> tuple[zenith.Module, object]:
    module = zenith.Module.parse(text)
    return module, next(op for op in walk(module.operation) if op.name == name)


def test_reshape_splits_a_merged_dimension() -> None:
    space = AxisSpace()
    view = space.fresh_view((2, 6, 4))
    split = space.regroup(view, (2, 3, 2, 4))
    assert split is not None
    assert [len(dim) for dim in space.resolve_view(view)] == [1, 2, 1]
    assert space.resolve_view(view)[1] == split[1] + split[2]


def test_reshape_across_axes_has_no_view() -> None:
    space = AxisSpace()
    assert space.regroup(space.fresh_view((4, 6)), (3, 8)) is None


def test_axes_kept_whole_are_not_split() -> None:
    space = AxisSpace()
    view = space.fresh_view((12,))
    space.keep_whole(view[0])
    assert space.regroup(view, (3, 4)) is None
    assert space.regroup(view, (1, 12, 1)) == ((), view[0], ())


def test_broadcast_gives_its_operand_no_axis_where_it_repeats() -> None:
    _, op = op_of(
        "func.func @f(%x: tensor<3x1xf32>) -> tensor<2x3x4xf32> {"
        " %0 = stablehlo.broadcast_in_dim %x, dims = [1, 2] : (tensor<3x1xf32>) -> tensor<2x3x4xf32>"
        " return %0 : tensor<2x3x4xf32> }",
        "stablehlo.broadcast_in_dim",
    )
    space = AxisSpace()
    view = space.fresh_view((2, 3, 4))
    assert operand_view(space, op, view) == (view[1], ())
    assert result_view(space, op, (view[1], ())) is None


def test_dot_general_names_both_operands() -> None:
    _, op = op_of(
        "func.func @f(%q: tensor<2x5x3x4xf32>, %k: tensor<2x7x3x4xf32>) -> tensor<2x3x5x7xf32> {"
        " %0 = stablehlo.dot_general %q, %k, batching_dims = [0, 2] x [0, 2], contracting_dims = [3] x [3]"
        " : (tensor<2x5x3x4xf32>, tensor<2x7x3x4xf32>) -> tensor<2x3x5x7xf32>"
        " return %0 : tensor<2x3x5x7xf32> }",
        "stablehlo.dot_general",
    )
    space = AxisSpace()
    b, h, t, s = view = space.fresh_view((2, 3, 5, 7))
    lhs, rhs = dot_operand_views(space, op, view)
    assert lhs[:3] == (b, t, h) and rhs[:3] == (b, s, h) and lhs[3] == rhs[3] and space.size(lhs[3][0]) == 4
    other, result = dot_other_view(space, op, 0, lhs)
    assert other[0] == b and other[2:] == rhs[2:] and result[:3] == (b, h, t)
    other, result = dot_other_view(space, op, 1, rhs)
    assert other[0] == b and result[:2] == (b, h) and result[3] == s


@st.composite
def factorisations(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Two shapes of one number of elements, both cut from one list of primes."""
    primes = draw(st.lists(st.sampled_from([2, 3, 5]), min_size=1, max_size=6))

    def cut() -> list[int]:
        borders = sorted(draw(st.sets(st.integers(0, len(primes)), max_size=3)) | {0, len(primes)})
        return [int(np.prod(primes[a:b])) for a, b in itertools.pairwise(borders)]

    return cut(), cut()


@given(factorisations())
def test_regrouping_keeps_row_major_order(shapes: tuple[list[int], list[int]]) -> None:
    """Index arithmetic over the resolved axes gives the same linear position on both sides of any reshape it
    accepts.
    """
    before, after = shapes
    space = AxisSpace()
    view = space.fresh_view(before)
    regrouped = space.regroup(view, after)
    if regrouped is None:
        return
    assert flat(space, view) == flat(space, regrouped)
    assert [int(np.prod([space.size(a) for a in dim])) for dim in space.resolve_view(regrouped)] == after


def flat(space: AxisSpace, view: View) -> list[int]:
    return [axis for dim in space.resolve_view(view) for axis in dim]


@pytest.mark.parametrize("permutation", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_transpose_is_undone_by_looking_up(permutation: tuple[int, ...]) -> None:
    sizes = (2, 3, 5)
    result = tuple(sizes[i] for i in permutation)
    types = ["x".join(map(str, dims)) for dims in (sizes, result)]
    _, op = op_of(
        f"func.func @f(%x: tensor<{types[0]}xf32>) -> tensor<{types[1]}xf32> {{"
        f" %0 = stablehlo.transpose %x, dims = {list(permutation)} : (tensor<{types[0]}xf32>) -> tensor<{types[1]}xf32>"
        f" return %0 : tensor<{types[1]}xf32> }}",
        "stablehlo.transpose",
    )
    space = AxisSpace()
    view = space.fresh_view(sizes)
    out = result_view(space, op, view)
    assert out is not None and operand_view(space, op, out) == view
    assert [space.size(dim[0]) for dim in out] == list(shape(op.results[0]))
