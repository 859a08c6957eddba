"""raise-attention in training programs: forward and backward are found together, and only what is the gradient is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_programs import RAISED, Program, array

import zenith_mlir as zenith
from zenith_mlir.certify.composites import isolated_composites
from zenith_mlir.dialects.attention_vjp import AttentionVjpSpec, reference
from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.ir.composites import composite_attributes, composite_name, zenith_composites

# What the gradient of is not matched, and the remark that says so; without one there is no gradient of full extent.
NOT_MATCHED = {
    "clipped": "the gradient through minimum is not fused",
    "one query": "",
    "guarded maximum": (
        "the softmax guards against an infinite maximum, and its gradient then is 0 where a fused one is not a number"
    ),
    "division deferred, sink": "the gradient of an attention with a sink of this form is not fused",
    **dict.fromkeys(
        [
            "division deferred",
            "division deferred, by a reciprocal",
            "division deferred, bfloat16",
            "division deferred, sink column",
            "division deferred, mask",
            "exp of log_softmax where",
        ],
        "a product in the gradient is none that the derivative of this attention has",
    ),
}


def is_float(x: Any) -> bool:
    return bool(jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating))


def with_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """(cotangent, *arguments) -> the first result of `function` and its gradients for all float arguments."""

    def train(cotangent: Any, *arguments: Any) -> Any:
        floats = [i for i, x in enumerate(arguments) if is_float(x)]

        def forward(*differentiated: Any) -> Any:
            full = list(arguments)
            for i, x in zip(floats, differentiated, strict=True):
                full[i] = x
            result = function(*full)
            return result[0] if isinstance(result, tuple) else result

        result, pullback = jax.vjp(forward, *(arguments[i] for i in floats))
        return result, pullback(cotangent)

    return train


def trained(function: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Callable[..., Any], list[Any]]:
    result = jax.eval_shape(function, *arguments)
    result = result[0] if isinstance(result, tuple) else result
    return with_gradient(function), [array(*result.shape, seed=9, dtype=result.dtype), *arguments]


def raised(function: Callable[..., Any], arguments: Sequence[Any]) -> zenith.Module:
    return zenith.trace(function, *arguments).run("prepare,raise-attention", target="cpu")


def passed(module: zenith.Module) -> list[str]:
    return [r.op for r in module.remarks if r.kind == "passed"]


def missed(module: zenith.Module) -> list[str]:
    return [r.reason for r in module.remarks if r.kind == "missed"]


def differentiated(program: Program) -> zenith.Module:
    return raised(*trained(program.function, program.arguments))


def names(programs: Sequence[Program]) -> list[str]:
    return [program.name for program in programs]


# The scan is for test_raise_attention_loops.py.
MATCHED = [program for program in RAISED if program.name not in [*NOT_MATCHED, "inside scan"]]


@pytest.mark.parametrize("program", MATCHED, ids=names(MATCHED))
def test_forward_and_backward_are_raised_together(program: Program) -> None:
    module = differentiated(program)
    assert sorted(passed(module)) == ["zenith.attention", "zenith.attention_vjp"], missed(module)
    assert "escapes = false" in module.text()
    main = module.text().split("func.func public @main")[1].split("\n  }")[0]
    assert "exponential" not in main, "the probabilities survive"


@pytest.mark.parametrize("name", NOT_MATCHED)
def test_a_gradient_that_is_not_matched_is_explained(name: str) -> None:
    (program,) = (program for program in RAISED if program.name == name)
    module = differentiated(program)
    assert "zenith.attention_vjp" not in passed(module)
    assert missed(module) == [reason for reason in [NOT_MATCHED[name]] if reason]


def gradient_unit(module: zenith.Module) -> tuple[zenith.Module, AttentionVjpSpec, list[int]]:
    """The two composites alone in a module, the backward's attributes, and for each of its operands which argument of
    the module it is; -1 for the residuals.
    """
    ((_, alone),) = isolated_composites(module)
    forward, backward = zenith_composites(alone.operation)
    assert composite_name(forward) == "zenith.attention"
    arguments = list(backward.block.arguments)
    positions = [arguments.index(value) if value in arguments else -1 for value in backward.operands]
    return alone, AttentionVjpSpec.from_attributes(from_attribute(composite_attributes(backward))), positions


@pytest.mark.once
@pytest.mark.parametrize("program", MATCHED, ids=names(MATCHED))
def test_attributes_describe_the_gradients(program: Program) -> None:
    """The derivative of the formula that the attributes mean, in float64, against the code that was outlined."""
    alone, spec, positions = gradient_unit(differentiated(program))
    rng = np.random.default_rng(0)
    inputs = [
        rng.random(s.shape) < 0.7 if s.dtype == bool else rng.standard_normal(s.shape).astype(s.dtype)
        for s in alone.input_specs
    ]
    _, *computed = alone.compile("cpu")(*inputs)
    with jax.enable_x64(True):
        operands = [jnp.asarray(inputs[i]) if i >= 0 else jnp.zeros(()) for i in positions]
        expected = map(np.asarray, jax.jit(partial(reference, spec, dtype=jnp.float64))(*operands))
    tolerance = {"float32": 5e-6, "bfloat16": 6e-2}[computed[0].dtype.name]
    for actual, wanted in zip(computed, expected, strict=True):
        scale = max(1, np.abs(wanted).max())
        np.testing.assert_allclose(np.asarray(actual, np.float64), wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.once
@pytest.mark.parametrize("program", MATCHED, ids=names(MATCHED))
def test_raise_and_expand_changes_no_bit(program: Program) -> None:
    function, arguments = trained(program.function, program.arguments)
    prepared = zenith.trace(function, *arguments).run("prepare", target="cpu")
    expanded = prepared.run("raise-attention,expand-composites", target="cpu")
    assert "zenith" not in expanded.text()
    flat = jax.tree.leaves(arguments)
    for a, b in zip(prepared.compile("cpu")(*flat), expanded.compile("cpu")(*flat), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
