"""Source locations: from MLIR's nested form to the line of the user's own code."""

import jax
import jax.numpy as jnp
import pytest
from jaxlib.mlir import ir

import zenith_mlir as zenith
from zenith_mlir.ir.context import make_context
from zenith_mlir.ir.location import UNKNOWN, Frame, enclosing_function, frames, source_frame

LIBRARY = "/venv/lib/python3.11/site-packages/flax/attention.py"


def location(text: str) -> ir.Location:
    context = make_context()
    module = ir.Module.parse(f"func.func private @f() loc({text})", context)
    return module.body.operations[0].location


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unknown", UNKNOWN),
        ('"model.py":12:3', Frame("model.py", 12, 3)),
        ('"model.py":12:3 to :9', Frame("model.py", 12, 3)),
        ('"jit(f)/dot"("attend"("model.py":12:3))', Frame("model.py", 12, 3, "attend")),
        ('callsite("model.py":12:3 at "train.py":4:1)', Frame("model.py", 12, 3)),
        (
            f'callsite("{LIBRARY}":7:1 at callsite("{LIBRARY}":9:1 at "train.py":4:1))',
            Frame("train.py", 4, 1),
        ),
        (f'callsite("{LIBRARY}":7:1 at "{LIBRARY}":9:1)', Frame(LIBRARY, 7, 1)),
        (f'fused["{LIBRARY}":7:1, "x"("model.py":2:2)]', Frame("model.py", 2, 2, "x")),
        ('callsite(unknown at "model.py":2:2)', Frame("model.py", 2, 2)),
        ('"<frozen importlib>":2:2', Frame("<frozen importlib>", 2, 2)),
        ('callsite("<frozen importlib>":2:2 at "<stdin>":1:1)', Frame("<stdin>", 1, 1)),
    ],
)
def test_source_frame(text: str, expected: Frame) -> None:
    assert source_frame(location(text)) == expected


def test_standard_library_is_not_the_users() -> None:
    import functools

    text = f'callsite("{functools.__file__}":7:1 at "train.py":4:1)'
    assert source_frame(location(text)) == Frame("train.py", 4, 1)


def test_frames_go_from_the_inside_out() -> None:
    found = frames(location('"op"(callsite("a"("a.py":1:1) at callsite("b"("b.py":2:2) at "c.py":3:3)))'))
    assert [(frame.file, frame.name) for frame in found] == [("a.py", "a"), ("b.py", "b"), ("c.py", "")]


def test_a_traced_function_keeps_its_lines() -> None:
    def model(x: jax.Array) -> jax.Array:
        return jax.nn.softmax(x)  # this line

    module = zenith.trace(model, jnp.ones((4, 4)))
    main = module.body.operations[0]
    divide = next(op for op in main.body.blocks[0].operations if op.operation.name == "stablehlo.divide")
    frame = source_frame(divide.location)
    with open(__file__) as file:
        line = next(i for i, text in enumerate(file, 1) if text.endswith("# this line\n"))
    assert (frame.file, frame.line) == (__file__, line)
    assert enclosing_function(divide) == "main"


def test_text_without_locations_gets_its_own_lines() -> None:
    body = "    return %x : tensor<2xf32>\n"
    text = "module {\n  func.func @f(%x: tensor<2xf32>) -> tensor<2xf32> {\n" + body + "  }\n}\n"
    module = zenith.Module.parse(text, "dir/in.mlir")
    function = module.body.operations[0]
    assert source_frame(function.location) == Frame("dir/in.mlir", 2, 3)
    assert source_frame(function.body.blocks[0].operations[0].location) == Frame("dir/in.mlir", 3, 5)
    assert source_frame(function.body.blocks[0].arguments[0].location).line == 2
