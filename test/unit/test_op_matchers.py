"""Op matchers: what fits, what nearly fits and what is said about it."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jaxlib.mlir import ir

import zenith_mlir as zenith
from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import walk_named
from zenith_mlir.match import ops as m

pytestmark = pytest.mark.once


def function(body: str, arguments: str = "%a: tensor<4x8xf32>, %b: tensor<4x8xf32>") -> zenith.Module:
    return zenith.Module.parse(f"func.func @main({arguments}) -> tensor<4x8xf32> {{\n{body}\n}}")


def elementwise(*lines: str) -> zenith.Module:
    """A function of %a and %b; each line is `%name = operation operands`, all of type 4x8xf32."""
    body = "\n".join(f"{line} : tensor<4x8xf32>" for line in lines)
    return function(f"{body}\nreturn {lines[-1].split(' ')[0]} : tensor<4x8xf32>")


def result(module: zenith.Module) -> ir.Value:
    (returned,) = walk_named(module.operation, "func.return")
    return returned.operands[0]


def argument(module: zenith.Module, number: int) -> ir.Value:
    (main,) = walk_named(module.operation, "func.func")
    return main.regions[0].blocks[0].arguments[number]


def matched(module: zenith.Module, pattern: m.Matcher, **options: bool) -> m.Match:
    found = m.match(result(module), pattern, **options)
    assert isinstance(found, m.Match), found
    return found


def missed(module: zenith.Module, pattern: m.Matcher, **options: bool) -> m.Miss:
    found = m.match(result(module), pattern, **options)
    assert isinstance(found, m.Miss), found
    return found


# ---- Operations by name ----


def test_every_operation_has_a_matcher_of_its_name() -> None:
    own = {"constant", "reduce"}
    for name in m._operation_names():
        bare = name.split(".", 1)[1]
        if bare.isidentifier() and not bare.startswith("_") and bare not in own:
            assert getattr(m, bare)().name in (name, f"stablehlo.{bare}")


def test_python_words_take_an_underscore() -> None:
    assert [getattr(m, name)().name for name in ("and_", "or_", "not_", "if_", "while_")] == [
        "stablehlo.and", "stablehlo.or", "stablehlo.not", "stablehlo.if", "stablehlo.while",
    ]  # fmt: skip


def test_unknown_operation_is_told_what_it_may_have_meant() -> None:
    with pytest.raises(AttributeError, match=r"no operation dot_genral \(did you mean dot_general"):
        _ = m.dot_genral
    with pytest.raises(m.PatternError, match="no operation convrt"):
        m.through("convrt", "x")


def test_other_dialects_by_their_full_name() -> None:
    module = function("%0 = chlo.erf %a : tensor<4x8xf32> -> tensor<4x8xf32>\nreturn %0 : tensor<4x8xf32>")
    assert m.match(result(module), m.op("chlo.erf", "x"))
    assert m.match(result(module), m.erf("x"))
    assert not m.match(result(module), m.op("vhlo.erf", "x"))


def test_pattern_of_anything_else_is_refused() -> None:
    with pytest.raises(m.PatternError, match="matchers, names and numbers, not of list"):
        m.add("x", [1.0])
    with pytest.raises(m.PatternError, match="matches nothing"):
        m.one_of()


# ---- Captures, order, backtracking ----


def test_captures_name_values_and_ops_come_operands_first() -> None:
    module = elementwise("%0 = stablehlo.tanh %a", "%1 = stablehlo.add %0, %b")
    found = matched(module, m.add(m.capture("t", m.tanh("x")), "y"))
    assert found["x"] == argument(module, 0)
    assert found["y"] == argument(module, 1)
    assert found["t"] == found.ops[0].results[0]
    assert [op.name for op in found.ops] == ["stablehlo.tanh", "stablehlo.add"]
    assert found.op == found.ops[1]


def test_one_name_is_one_value() -> None:
    square = m.multiply("x", "x")
    assert m.match(result(elementwise("%0 = stablehlo.multiply %a, %a")), square)
    miss = missed(elementwise("%0 = stablehlo.multiply %a, %b"), square)
    assert "x stands for two different values" in miss.reason


@pytest.mark.parametrize("operands", ["%0, %b", "%b, %0"])
def test_commutative_operations_match_in_both_orders(operands: str) -> None:
    module = elementwise("%0 = stablehlo.tanh %a", f"%1 = stablehlo.add {operands}")
    assert matched(module, m.add(m.tanh("x"), "y"))["y"] == argument(module, 1)


def test_other_operations_match_in_their_order() -> None:
    module = elementwise("%0 = stablehlo.tanh %a", "%1 = stablehlo.subtract %b, %0")
    assert m.match(result(module), m.subtract("y", m.tanh("x")))
    assert missed(module, m.subtract(m.tanh("x"), "y")).reason == "operand 1 of subtract is an argument, not a tanh"


def test_an_inner_order_is_taken_back_when_the_rest_fails() -> None:
    """x + y binds x to %a first; only y + x leaves an x that the subtraction agrees with."""
    module = elementwise("%0 = stablehlo.add %a, %b", "%1 = stablehlo.subtract %0, %b")
    found = matched(module, m.subtract(m.add("x", "y"), "x"))
    assert found["x"] == argument(module, 1)
    assert found["y"] == argument(module, 0)


def test_an_alternative_is_taken_back_when_the_rest_fails() -> None:
    module = elementwise("%0 = stablehlo.tanh %a", "%1 = stablehlo.subtract %0, %a")
    found = matched(module, m.subtract(m.one_of("x", m.tanh("x")), "x"))
    assert found["x"] == argument(module, 0)


# ---- Constants ----


def constant(literal: str, element: str = "f32") -> zenith.Module:
    return zenith.Module.parse(
        f"func.func @main(%a: tensor<2x{element}>) -> tensor<2x{element}> {{\n"
        f"%c = stablehlo.constant dense<{literal}> : tensor<2x{element}>\n"
        f"%0 = stablehlo.add %a, %c : tensor<2x{element}>\nreturn %0 : tensor<2x{element}>\n}}"
    )


@pytest.mark.parametrize(
    ("literal", "element", "number"),
    [("0.1", "f32", 0.1), ("0.1", "bf16", 0.1), ("0xFF800000", "f32", float("-inf")), ("3", "i32", 3),
     ("3.0", "f32", 3), ("0x7FC00000", "f32", float("nan"))],
)  # fmt: skip
def test_a_number_is_rounded_to_the_element_type(literal: str, element: str, number: float) -> None:
    assert m.match(result(constant(literal, element)), m.add("x", number))


def test_another_number_does_not_fit() -> None:
    assert missed(constant("1.0"), m.add("x", 0.0)).reason == "operand 2 of add is the constant 1, not the constant 0"
    missed(constant("0", "i32"), m.add("x", 0.5))
    missed(constant("3", "i8"), m.add("x", 259))
    missed(constant("3", "i32"), m.add("x", float("inf")))


def test_constants_are_none_of_the_matched_operations() -> None:
    found = matched(constant("1.0"), m.add("x", m.op("stablehlo.constant")))
    assert [op.name for op in found.ops] == ["stablehlo.add"]


def test_constants_by_predicate_any_and_not_splat() -> None:
    negative = m.capture("c", m.splat(lambda c: c < 0))
    assert matched(constant("-2.0"), m.add("x", negative)).numbers == {"c": -2.0}
    assert missed(constant("2.0"), m.add("x", negative)).reason.endswith("not a constant that the pattern accepts")
    assert m.match(result(constant("[1.0, 2.0]")), m.add("x", m.constant()))
    assert not m.match(result(constant("[1.0, 2.0]")), m.add("x", m.splat()))


# ---- Attributes, operands, results ----

COMPARE = """%0 = stablehlo.compare LT, %a, %b, FLOAT : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xi1>
%1 = stablehlo.select %0, %a, %b : tensor<4x8xi1>, tensor<4x8xf32>
return %1 : tensor<4x8xf32>"""


def test_attributes_equal_or_fulfil() -> None:
    module = function(COMPARE)
    assert m.match(result(module), m.select(m.compare("x", "y", comparison_direction="LT"), "x", "y"))
    assert m.match(result(module), m.select(m.compare("x", "y", comparison_direction=lambda d: d in "LT GT"), "x", "y"))
    miss = missed(module, m.select(m.compare("x", "y", comparison_direction="GT"), "x", "y"))
    assert miss.reason == "comparison_direction of compare is LT, not GT"
    assert miss.matched == 2
    assert miss.op is not None
    assert miss.op.name == "stablehlo.compare"


def test_integer_lists_and_dot_dimensions() -> None:
    module = zenith.trace(
        lambda a, b: a.T @ b, jax.ShapeDtypeStruct((3, 4), "f4"), jax.ShapeDtypeStruct((3, 5), "f4")
    ).run("prepare", target="cpu")
    dims = DotDims((), (), (1,), (0,))
    assert m.match(result(module), m.dot_general(m.transpose("a", permutation=[1, 0]), "b", dot_dimension_numbers=dims))
    assert not m.match(result(module), m.dot_general(m.transpose("a", permutation=(0, 1)), "b"))


def test_number_of_operands() -> None:
    module = function(COMPARE)
    assert missed(module, m.select("p", "x")).reason == "select has 3 operands, not 2"
    assert m.match(result(module), m.select("p", ...))
    assert m.match(result(module), m.select())


def test_a_result_other_than_the_first() -> None:
    module = function(
        "%0:2 = stablehlo.optimization_barrier %a, %b : tensor<4x8xf32>, tensor<4x8xf32>\nreturn %0#1 : tensor<4x8xf32>"
    )
    assert m.match(result(module), m.op("stablehlo.optimization_barrier", "x", "y", result=1))
    assert not m.match(result(module), m.optimization_barrier("x", "y"))


# ---- Through, where, argument, single use ----

CONVERTED = """%0 = stablehlo.tanh %a : tensor<4x8xf32>
%1 = stablehlo.convert %0 : (tensor<4x8xf32>) -> tensor<4x8xbf16>
%2 = stablehlo.convert %1 : (tensor<4x8xbf16>) -> tensor<4x8xf32>
%3 = stablehlo.negate %2 : tensor<4x8xf32>
return %3 : tensor<4x8xf32>"""


def test_looking_through_shape_operations() -> None:
    module = function(CONVERTED)
    found = matched(module, m.negate(m.through("convert", m.tanh("x"))))
    assert [op.name for op in found.ops].count("stablehlo.convert") == 2
    assert m.match(
        result(elementwise("%0 = stablehlo.tanh %a", "%1 = stablehlo.negate %0")),
        m.negate(m.through("convert", m.tanh("x"))),
    )
    missed(module, m.negate(m.through(("reshape", "transpose"), m.tanh("x"))))


def test_predicates_on_values_and_arguments() -> None:
    module = elementwise("%0 = stablehlo.negate %a")
    wide = m.where("x", lambda value: ir.RankedTensorType(value.type).shape[1] > 100, "the rows are too short to pay")
    assert missed(module, m.negate(wide)).reason == "the rows are too short to pay"
    assert m.match(result(module), m.negate(m.capture("x", m.argument())))
    twice = elementwise("%0 = stablehlo.negate %a", "%1 = stablehlo.tanh %0")
    assert (
        missed(twice, m.tanh(m.argument())).reason == "operand 1 of tanh is a negate, not an argument of the function"
    )


SHARED = ("%0 = stablehlo.tanh %a", "%1 = stablehlo.negate %0", "%2 = stablehlo.add %1, %0")


def test_values_inside_may_be_used_elsewhere_unless_told_otherwise() -> None:
    module = elementwise(*SHARED)
    (negate,) = walk_named(module.operation, "stablehlo.negate")
    pattern = m.negate(m.tanh("x"))
    found = m.match(negate, pattern)
    assert isinstance(found, m.Match)
    assert [op.name for op in found.escapes()] == ["stablehlo.tanh"]
    refused = m.match(negate, pattern, single_use=True)
    assert isinstance(refused, m.Miss)
    assert refused.reason == "the result of tanh is used elsewhere too"
    one = m.match(negate, m.negate(m.single_use(m.tanh("x"))))
    assert isinstance(one, m.Miss)
    assert one.reason == "add uses a value inside of the pattern too"
    assert matched(module, m.add(m.negate(m.single_use(m.capture("t", m.tanh("x")))), "t"), single_use=True)


# ---- Ready-made ----


def traced_module(function: object, *shapes: tuple[int, ...], dtype: str = "float32") -> zenith.Module:
    return zenith.trace(function, *(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)).run(
        "prepare", target="cpu"
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("axis", [-1, 0])
def test_softmax(axis: int) -> None:
    module = traced_module(lambda x: jax.nn.softmax(x * 2, axis=axis), (4, 8))
    found = matched(module, m.softmax(m.multiply("x", 2.0), axis=axis))
    assert found["x"] == argument(module, 0)
    other = missed(module, m.softmax("x", axis=axis + 1))
    assert "the softmax runs along dimension" in other.reason
    assert other.is_near


def test_what_is_nearly_a_softmax() -> None:
    unshifted = traced_module(lambda x: jnp.exp(x) / jnp.sum(jnp.exp(x), -1, keepdims=True), (4, 8))
    miss = missed(unshifted, m.softmax("x"))
    assert "without subtracting the row maximum" in miss.reason
    assert miss.is_near is False
    assert missed(traced_module(lambda x: x / (1 + x), (4, 8)), m.softmax("x")).reason == "a divide, not a softmax"


def test_another_quotient_of_the_same_exponentials_is_no_softmax() -> None:
    def function(x: jax.Array, w: jax.Array) -> jax.Array:
        e = jnp.exp(x - jnp.max(x, -1, keepdims=True))
        return jnp.stack([e / jnp.sum(e, -1, keepdims=True), e / w])

    module = traced_module(function, (4, 8), (4, 8))
    divides = walk_named(module.operation, "stablehlo.divide")
    assert [bool(m.match(op, m.softmax("x"))) for op in divides] == [True, False]


def test_attention_as_one_expression() -> None:
    module = traced_module(lambda q, k, v: jax.nn.softmax(q @ k.T, -1) @ v, (4, 8), (6, 8), (6, 8))
    found = matched(module, m.dot_general(m.softmax(m.dot_general("q", m.through("transpose", "k"))), "v"))
    assert found["q"] == argument(module, 0)
    assert found["v"] == argument(module, 2)


def test_reductions() -> None:
    module = traced_module(lambda x: jnp.sum(x, 1), (4, 8))
    assert m.match(result(module), m.reduce("add", "x", dimensions=[1]))
    assert missed(module, m.reduce("maximum", "x")).reason == "reduce applies add, not maximum"
    assert missed(module, m.reduce("add", "x", dimensions=[0])).reason == "dimensions of reduce is [1], not [0]"
    started = traced_module(lambda x: jax.lax.reduce(x, jnp.float32(1), jax.lax.add, (1,)), (4, 8))
    assert missed(started, m.reduce("add", "x")).reason == "reduce add starts from another value"
    with pytest.raises(m.PatternError, match="did you mean maximum"):
        m.reduce("maximun", "x")


# ---- Misses ----


def test_a_miss_is_the_deepest_partial_match() -> None:
    """Both branches fail; the one that gets further is told."""
    module = elementwise(
        "%0 = stablehlo.tanh %a",
        "%1 = stablehlo.exponential %0",
        "%2 = stablehlo.negate %b",
        "%3 = stablehlo.add %1, %2",
    )
    pattern = m.add(m.one_of(m.negate(m.negate("x")), m.exponential(m.negate("x"))), m.negate("y"))
    miss = missed(module, pattern)
    assert miss.reason == "operand 1 of exponential is a tanh, not a negate"
    assert miss.matched == 2
    assert miss.needed == 4
    assert not miss.is_near
    assert not miss


def test_of_equally_deep_misses_the_first_is_told() -> None:
    module = elementwise("%0 = stablehlo.exponential %a")
    assert missed(module, m.one_of(m.negate("x"), m.tanh("x"))).reason == "an exponential, not a negate"


def test_an_argument_or_an_operation_can_be_asked_for() -> None:
    module = elementwise("%0 = stablehlo.negate %a")
    miss = m.match(argument(module, 0), m.negate("x"))
    assert isinstance(miss, m.Miss)
    assert miss.op is None
    assert miss.reason == "an argument, not a negate"
    (negate,) = walk_named(module.operation, "stablehlo.negate")
    assert m.match(negate, m.negate("x"))


def test_op_matchers_need_no_jax() -> None:
    code = (
        "import sys, zenith_mlir.match.pattern, zenith_mlir.match.ops as m\n"
        "m.add('x', 1.0)\n"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
