"""raise-activation: activations are found however they are spelled, with their bias and what they gate."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from activation_programs import (
    BF16,
    F16,
    F32,
    FORMS,
    RAISE,
    Function,
    array,
    check_attributes,
    missed,
    passed,
    raised,
)

import zenith_mlir as zenith
from zenith_mlir.certify import certify_pair
from zenith_mlir.ir.composites import zenith_composites

X = array(3, 8)
LOWER = "prepare,raise-activation,raise-matmul,lower-kernels{cost-model=false}"


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", FORMS)
def test_every_spelling(name: str, dtype: Any) -> None:
    kind, slope, function = FORMS[name]
    module = raised(function, X.astype(dtype))
    ((op, facts),) = passed(module)
    assert op == ("zenith.silu" if kind == "silu" else "zenith.gelu")
    assert facts["activation"] == kind and not facts["bias"] and not facts["escapes"] and not facts["gated"]
    assert facts.get("slope", 1.0) == pytest.approx(slope, rel=4e-3)
    (composite,) = zenith_composites(module.operation)
    assert composite.operands[0].type == composite.results[0].type, "conversions are taken along"
    assert missed(module) == []


@pytest.mark.parametrize("name", FORMS)
def test_attributes_describe_the_decomposition(name: str) -> None:
    assert check_attributes(raised(FORMS[name][2], X)) == 1


def test_the_slope_is_what_the_program_computes_with() -> None:
    ((_, facts),) = passed(raised(lambda x: x * jax.nn.sigmoid(1.7 * x), X))
    assert facts["slope"] == 1.7
    ((_, facts),) = passed(raised(lambda x: x * jax.nn.sigmoid(1.702 * x), X.astype(BF16)))
    assert facts["slope"] == 1.703125, "as bfloat16 has it"


@pytest.mark.parametrize(
    ("name", "function", "expected"),
    [
        ("product", lambda x, w, b: jax.nn.gelu(x @ w + b), True),
        ("heads", lambda x, w, b: jax.nn.silu(jnp.einsum("td,df->tf", x, w) + b[None]), True),
        ("argument", lambda x, w, b: jax.nn.gelu(b + x[:, :6]), True),
        ("end of a norm", lambda x, w, b: jax.nn.silu(x[:, :6] * w[0] + b), False),
        ("sum used elsewhere", lambda x, w, b: (jax.nn.gelu(y := x @ w + b), y), False),
        ("one number a row", lambda x, w, b: jax.nn.gelu(x @ w + x[:, :1]), False),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_a_bias_is_taken_in(name: str, function: Function, expected: bool) -> None:
    module = raised(function, X, array(8, 6), array(6))
    ((_, facts),) = passed(module)
    assert facts["bias"] == expected
    assert check_attributes(module) == 1


GATES: list[tuple[str, Function, dict[str, Any]]] = [
    ("two tensors", lambda x, u: jax.nn.silu(x) * u, {"halves": "none"}),
    ("up first", lambda x, u: u * jax.nn.silu(x), {"halves": "none"}),
    ("logistic with up first", lambda x, u: x * (u * jax.nn.sigmoid(x)), {"halves": "none"}),
    ("quotient", lambda x, u: (x * u) / (1 + jnp.exp(-x)), {"halves": "none"}),
    ("first half", lambda x, u: (lambda a, b: jax.nn.silu(a) * b)(*jnp.split(x, 2, axis=-1)), {"halves": "gate_first"}),
    ("last half", lambda x, u: (lambda a, b: a * jax.nn.silu(b))(*jnp.split(x, 2, axis=-1)), {"halves": "gate_last"}),
    ("quick", lambda x, u: x * jax.nn.sigmoid(1.702 * x) * u, {"slope": 1.702}),
    ("biases", lambda x, u: jax.nn.silu(x + u[0]) * (u + x[0]), {"bias": True}),
    ("bias of both halves", lambda x, u: (lambda a, b: jax.nn.silu(a) * b)(*jnp.split(x + u[0], 2, axis=-1)),
     {"bias": True, "halves": "gate_first"}),
    ("uneven halves", lambda x, u: jax.nn.silu(x[:, 1:5]) * x[:, 4:], {"halves": "none"}),
    ("rows as halves", lambda x, u: jax.nn.silu(x[:2]) * u[1:], {"halves": "none"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "function", "facts"), GATES, ids=[case[0] for case in GATES])
def test_gates(name: str, function: Function, facts: dict[str, Any]) -> None:
    module = raised(function, X, array(3, 8, seed=1))
    ((op, found),) = passed(module)
    assert op == "zenith.swiglu" and found["gated"]
    assert {fact: found[fact] for fact in facts} == facts
    assert check_attributes(module) == 1


@pytest.mark.parametrize("approximate", [False, True])
def test_a_gate_made_of_gelu_counts_as_one(approximate: bool) -> None:
    module = raised(lambda x, u: jax.nn.gelu(x, approximate=approximate) * u, X, array(3, 8, seed=1))
    ((op, facts),) = passed(module)
    assert op == "zenith.gelu" and facts["gated"]
    assert 'composite "zenith.swiglu"' in module.text()
    assert check_attributes(module) == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda x, u: jax.nn.silu(x) * u[0],
        lambda x, u: jax.nn.silu(x) * (u > 0),
        lambda x, u: jnp.where(u > 0, jax.nn.silu(x) * 2, 0),
        lambda x, u: (jax.nn.silu(x), jax.nn.silu(x) * u),
        lambda x, u: jax.nn.silu(x) + u,
    ],
    ids=["one row", "mask", "dropout", "used alone as well", "sum"],
)
def test_what_is_no_gate(function: Function) -> None:
    ((op, facts),) = passed(raised(function, X, array(3, 8, seed=1)))
    assert op == "zenith.silu" and not facts["escapes"]


def test_what_is_used_inside_escapes_and_stays_with_xla() -> None:
    def function(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        gate = jax.nn.sigmoid(x)
        return x * gate, gate

    module = raised(function, X)
    ((_, facts),) = passed(module)
    assert facts["escapes"]
    lowered = zenith.trace(function, X).run(LOWER, target="cpu")
    assert "custom_call" not in lowered.text()
    assert [r.reason for r in lowered.remarks if r.kind == "missed"] == [
        "values inside are used elsewhere as well, so they are computed anyway"
    ]


def test_a_result_that_many_use_does_not_escape() -> None:
    ((_, facts),) = passed(raised(lambda x: (y := jax.nn.gelu(x)) * y.mean() + y, X))
    assert not facts["escapes"]


def test_an_activation_of_an_activation() -> None:
    module = raised(lambda x: jax.nn.gelu(jax.nn.silu(jax.nn.gelu(x))), X)
    assert [op for op, _ in passed(module)] == ["zenith.gelu", "zenith.silu", "zenith.gelu"]


def test_a_clipped_gate_is_read_behind_the_clip() -> None:
    module = raised(lambda x: jax.nn.silu(jnp.minimum(x, 7.0)), X)
    assert len(passed(module)) == 1 and check_attributes(module) == 1
    (composite,) = zenith_composites(module.operation)
    assert composite.operands[0].owner.name == "stablehlo.minimum"


def test_exported_programs_hide_their_error_functions_in_composites() -> None:
    exported = jax.export.export(jax.jit(lambda x: x * 0.5 * (1 + jax.lax.erf(x * 0.5**0.5))))(X)
    module = zenith.load(exported.mlir_module()).run(RAISE, target="none")
    assert [op for op, _ in passed(module)] == ["zenith.gelu"]


def test_error_functions_written_out() -> None:
    exported = jax.export.export(jax.jit(lambda x: jax.nn.gelu(x, approximate=False)))(X)
    module = zenith.load(exported.mlir_module()).run(RAISE, target="none")
    assert [op for op, _ in passed(module)] == ["zenith.gelu"]


@pytest.mark.parametrize(
    ("function", "steps"),
    [
        (lambda x, w, b: jax.nn.gelu(x @ w + b, approximate=False), "round add round gelu"),
        (lambda x, w, b: jax.nn.gelu(x @ w + b), "round add round gelu_tanh"),
        (lambda x, w, b: jax.nn.silu(x @ w) * (x @ (w + 1)), "round silu round multiply"),
        (lambda x, w, b: (y := x @ w) * jax.nn.sigmoid(1.702 * y), ""),
    ],
    ids=["gelu", "gelu_tanh", "gate", "quick"],
)
def test_behind_a_product_of_16_bits_they_are_its_epilogue(function: Function, steps: str) -> None:
    arguments = X.astype(BF16), array(8, 6, dtype=BF16), array(6, dtype=BF16)
    original = zenith.trace(function, *arguments)
    lowered = original.run(LOWER, target="cpu")
    found = [r.args["steps"] for r in lowered.remarks if r.pass_name == "raise-matmul" and r.kind == "passed"]
    assert steps in found
    certificate = certify_pair(original, lowered, inputs=[("its own", [np.asarray(x) for x in arguments])])
    assert certificate.sound, certificate.summary


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
def test_kernels_compute_the_same(dtype: Any) -> None:
    def function(x: jax.Array, w: jax.Array, b: jax.Array) -> tuple[jax.Array, ...]:
        a, u = jnp.split(x, 2, axis=-1)
        return jax.nn.gelu(x @ w + b), jax.nn.gelu(x, approximate=False), jax.nn.silu(a) * u

    arguments = X.astype(dtype), array(8, 6, dtype=dtype), array(6, dtype=dtype)
    original = zenith.trace(function, *arguments)
    lowered = original.run(LOWER, target="cpu")
    assert lowered.text().count("custom_call @zenith") == 3
    certificate = certify_pair(original, lowered, inputs=[("its own", [np.asarray(x) for x in arguments])])
    assert certificate.sound, certificate.summary
