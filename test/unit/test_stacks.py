"""Stacks: what one loop keeps a row an iteration for another is computed again there, or left alone."""

from __future__ import annotations

import numpy as np
import pytest
from jaxlib.mlir import ir

import zenith_mlir as zenith
from zenith_mlir.ir.facts import walk_named
from zenith_mlir.ir.loops import Loop, capture_invariants, drop_unused
from zenith_mlir.ir.stacks import NotStacked, Row, add_stacks, computable, is_only_loaded, loads, recompute, stored

# The first loop stacks y (a) and its sine's cosine (b); the second reads row 2 - i of b.
TWO_LOOPS = """
func.func @main(%x: tensor<4xf32>, %stack: tensor<3x4xf32>, %high: tensor<{height}x4xf32>) -> tensor<4xf32> {{
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %one = stablehlo.constant dense<1> : tensor<i32>
  %two = stablehlo.constant dense<2> : tensor<i32>
  %three = stablehlo.constant dense<3> : tensor<i32>
  %0:4 = stablehlo.while(%i = %zero, %y = %x, %a = %stack, %b = %high)
    : tensor<i32>, tensor<4xf32>, tensor<3x4xf32>, tensor<{height}x4xf32>
  cond {{
    %go = stablehlo.compare LT, %i, %three : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  }} do {{
    %s = stablehlo.sine %{source} : tensor<4xf32>
    %c = stablehlo.cosine %s : tensor<4xf32>
    %z = stablehlo.add %y, %c : tensor<4xf32>
    %j = stablehlo.add %i, %one : tensor<i32>
    %y1 = stablehlo.reshape %y : (tensor<4xf32>) -> tensor<1x4xf32>
    %c1 = stablehlo.reshape %c : (tensor<4xf32>) -> tensor<1x4xf32>
    %a1 = stablehlo.dynamic_update_slice %a, %y1, %i, %zero
      : (tensor<3x4xf32>, tensor<1x4xf32>, tensor<i32>, tensor<i32>) -> tensor<3x4xf32>
    %b1 = stablehlo.dynamic_update_slice %b, %c1, %{start}, %zero
      : (tensor<{height}x4xf32>, tensor<1x4xf32>, tensor<i32>, tensor<i32>) -> tensor<{height}x4xf32>
    stablehlo.return %j, %z, %a1, %b1 : tensor<i32>, tensor<4xf32>, tensor<3x4xf32>, tensor<{height}x4xf32>
  }}
  %1:3 = stablehlo.while(%i = %zero, %y = %0#1, %b = %0#3) : tensor<i32>, tensor<4xf32>, tensor<{height}x4xf32>
  cond {{
    %go = stablehlo.compare LT, %i, %three : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  }} do {{
    %r = stablehlo.subtract %two, %i : tensor<i32>
    {read}
    %z = stablehlo.multiply %y, %row : tensor<4xf32>
    %j = stablehlo.add %i, %one : tensor<i32>
    stablehlo.return %j, %z, %b : tensor<i32>, tensor<4xf32>, tensor<{height}x4xf32>
  }}
  {result}
}}
"""
READ = """
    %slice = stablehlo.dynamic_slice %b, %r, %zero, sizes = [1, 4]
      : (tensor<{height}x4xf32>, tensor<i32>, tensor<i32>) -> tensor<1x4xf32>
    %row = stablehlo.reshape %slice : (tensor<1x4xf32>) -> tensor<4xf32>"""
READ_PART = """
    %slice = stablehlo.dynamic_slice %b, %r, %zero, sizes = [1, 2]
      : (tensor<{height}x4xf32>, tensor<i32>, tensor<i32>) -> tensor<1x2xf32>
    %twice = stablehlo.concatenate %slice, %slice, dim = 1 : (tensor<1x2xf32>, tensor<1x2xf32>) -> tensor<1x4xf32>
    %row = stablehlo.reshape %twice : (tensor<1x4xf32>) -> tensor<4xf32>"""
READ_TWICE = """
    %other = stablehlo.dynamic_slice %b, %i, %zero, sizes = [1, 4]
      : (tensor<{height}x4xf32>, tensor<i32>, tensor<i32>) -> tensor<1x4xf32>
    %slice = stablehlo.dynamic_slice %b, %r, %zero, sizes = [1, 4]
      : (tensor<{height}x4xf32>, tensor<i32>, tensor<i32>) -> tensor<1x4xf32>
    %both = stablehlo.add %slice, %other : tensor<1x4xf32>
    %row = stablehlo.reshape %both : (tensor<1x4xf32>) -> tensor<4xf32>"""
READ_IN_A_BRANCH = """
    %first = stablehlo.compare EQ, %i, %zero : (tensor<i32>, tensor<i32>) -> tensor<i1>
    %picked = "stablehlo.if"(%first) ({{
      %s1 = stablehlo.dynamic_slice %b, %r, %zero, sizes = [1, 4]
        : (tensor<{height}x4xf32>, tensor<i32>, tensor<i32>) -> tensor<1x4xf32>
      "stablehlo.return"(%s1) : (tensor<1x4xf32>) -> ()
    }}, {{
      %none = stablehlo.constant dense<1.0> : tensor<1x4xf32>
      "stablehlo.return"(%none) : (tensor<1x4xf32>) -> ()
    }}) : (tensor<i1>) -> tensor<1x4xf32>
    %slice = stablehlo.dynamic_slice %b, %r, %zero, sizes = [1, 4]
      : (tensor<{height}x4xf32>, tensor<i32>, tensor<i32>) -> tensor<1x4xf32>
    %both = stablehlo.add %slice, %picked : tensor<1x4xf32>
    %row = stablehlo.reshape %both : (tensor<1x4xf32>) -> tensor<4xf32>"""
RESULT = "return %1#1 : tensor<4xf32>"
AGAIN = """
  %2:3 = stablehlo.while(%i = %zero, %y = %1#1, %b = %0#3) : tensor<i32>, tensor<4xf32>, tensor<{height}x4xf32>
  cond {{
    %go = stablehlo.compare LT, %i, %three : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  }} do {{
    %slice = stablehlo.dynamic_slice %b, %i, %zero, sizes = [1, 4]
      : (tensor<{height}x4xf32>, tensor<i32>, tensor<i32>) -> tensor<1x4xf32>
    %row = stablehlo.reshape %slice : (tensor<1x4xf32>) -> tensor<4xf32>
    %z = stablehlo.subtract %y, %row : tensor<4xf32>
    %j = stablehlo.add %i, %one : tensor<i32>
    stablehlo.return %j, %z, %b : tensor<i32>, tensor<4xf32>, tensor<{height}x4xf32>
  }}
  return %2#1 : tensor<4xf32>"""


def program(
    read: str = READ, source: str = "y", start: str = "i", height: int = 3, result: str = RESULT
) -> zenith.Module:
    facts = {"source": source, "start": start, "height": height}
    text = TWO_LOOPS.format(read=read.format(**facts), result=result.format(**facts), **facts)
    return zenith.Module.parse(text)


def first_loop(module: zenith.Module) -> Loop:
    return Loop(walk_named(module.operation, "stablehlo.while")[0])


def last_row(loop: Loop) -> Row:
    (row,) = (row for row in stored(loop) if row.carry == 3)
    return row


def anything(op: ir.Operation) -> bool:
    return True


def computed(module: zenith.Module, height: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    shapes = [(4,), (3, 4), (height, 4)]
    (result,) = module.compile("cpu")(*(rng.standard_normal(s).astype(np.float32) for s in shapes))
    return np.asarray(result)


# name -> how rows are read, what follows, how many reads are replaced, and the stacks left
PROGRAMS = {
    "one read": (READ, RESULT, 1, 1),
    "two reads": (READ_TWICE, RESULT, 2, 1),
    "part of a row": (READ_PART, RESULT, 0, 1),
    "in a branch too": (READ_IN_A_BRANCH, RESULT, 1, 2),
    "two loops": (READ, AGAIN, 2, 1),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_rows_are_computed_where_they_are_read(name: str) -> None:
    read, result, count, left = PROGRAMS[name]
    module = program(read, result=result)
    before = computed(module)
    with module.context:
        loop = first_loop(module)
        assert recompute(loop, [last_row(loop)], anything) == count
        assert module.operation.verify()
        assert len(stored(first_loop(module))) == left
    np.testing.assert_allclose(computed(module), before, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "carries"),
    [({}, [2, 3]), ({"height": 4}, [2]), ({"start": "j"}, [2])],
    ids=["both", "a stack of another height", "a row ahead"],
)
def test_what_is_stored(changes: dict[str, int | str], carries: list[int]) -> None:
    module = program(**changes)  # type: ignore[arg-type]
    assert [row.carry for row in stored(first_loop(module))] == carries


def test_what_is_loaded() -> None:
    for read, count in [(READ, 1), (READ_TWICE, 2), (READ_PART, 0), (READ_IN_A_BRANCH, 1)]:
        module = program(read)
        assert len(list(loads(first_loop(module), 3))) == count
        assert not list(loads(first_loop(module), 2))


def test_what_is_not_stacked_leaves_the_module_as_it_is() -> None:
    module = program()
    text = module.text()
    with module.context:
        loop = first_loop(module)
        with pytest.raises(NotStacked) as miss:
            recompute(loop, stored(loop), anything)
        assert miss.value.op == loop.op
        with pytest.raises(NotStacked) as miss:
            recompute(loop, [last_row(loop)], lambda op: op.name != "stablehlo.sine")
        assert miss.value.op.name == "stablehlo.sine"
        assert [row.carry for row in computable(loop, stored(loop), anything)] == []
        assert [row.carry for row in computable(loop, [last_row(loop)], anything)] == [3]
    assert module.text() == text
    assert module.operation.verify()


def test_loops_are_not_repeated() -> None:
    inner = """stablehlo.sine %y : tensor<4xf32>
    %w:2 = stablehlo.while(%k = %zero, %v = %s) : tensor<i32>, tensor<4xf32>
    cond {
      %go = stablehlo.compare LT, %k, %three : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %go : tensor<i1>
    } do {
      %l = stablehlo.add %k, %one : tensor<i32>
      %u = stablehlo.negate %v : tensor<4xf32>
      stablehlo.return %l, %u : tensor<i32>, tensor<4xf32>
    }
    %c = stablehlo.cosine %w#1"""
    body = "stablehlo.sine %{source} : tensor<4xf32>\n    %c = stablehlo.cosine %s"
    text = TWO_LOOPS.replace(body, "{inner}")
    module = zenith.Module.parse(
        text.format(read=READ.format(height=3), result=RESULT, height=3, start="i", inner=inner)
    )
    with module.context:
        loop = first_loop(module)
        with pytest.raises(NotStacked) as miss:
            recompute(loop, [last_row(loop)], anything)
        assert miss.value.op.name == "stablehlo.while"


def test_a_loop_may_use_a_stack_that_it_is_not_given() -> None:
    """As it is once values that a loop leaves unchanged were captured by its body."""
    module = program()
    before = computed(module)
    reader = Loop(walk_named(module.operation, "stablehlo.while")[1])
    with module.context:
        capture_invariants(reader, range(len(reader.operands)))
        drop_unused(reader)
        loop = first_loop(module)
        assert is_only_loaded(loop, last_row(loop))
        assert recompute(loop, [last_row(loop)], anything) == 1
    assert module.operation.verify()
    np.testing.assert_allclose(computed(module), before, rtol=1e-6)


def test_more_values_are_stacked() -> None:
    """A value that is stacked on top lets a row be computed that nothing else determines."""
    module = program(source="y")
    before = computed(module)
    with module.context:
        loop = first_loop(module)
        sine = next(op.operation for op in loop.body.operations if op.operation.name == "stablehlo.sine")
        wide = add_stacks(loop, [sine.results[0], loop.body.arguments[1]])
        assert [row.carry for row in stored(wide)] == [2, 3, 4, 5]
        assert recompute(wide, [row for row in stored(wide) if row.carry in (2, 3)], anything) == 1
    assert module.operation.verify()
    np.testing.assert_allclose(computed(module), before, rtol=1e-6)
