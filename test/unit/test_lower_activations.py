"""lower-kernels: composites of activations and rotary embeddings become kernel calls and compute the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlib.mlir import ir

import zenith_mlir as zenith
from zenith_mlir.dialects import gelu, gelu_vjp, rotary, rotary_vjp, silu, silu_vjp, swiglu, swiglu_vjp
from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.dialects.gelu import GeluSpec
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.dialects.rotary import RotarySpec
from zenith_mlir.dialects.silu import SiluSpec
from zenith_mlir.dialects.swiglu import SwigluSpec
from zenith_mlir.ir.composites import composite_attributes, zenith_composites

pytestmark = pytest.mark.once

LOWER = "lower-kernels{cost-model=false}"  # the shapes are too small to pay

F = 24
OPS = {op.NAME: op for op in (gelu, gelu_vjp, silu, silu_vjp, swiglu, swiglu_vjp, rotary, rotary_vjp)}


def array(*shape: int, dtype: str = "float32", seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def composite(name: str, spec: Any, operands: Sequence[jax.Array]) -> zenith.Module:
    """A program that is one composite, with the reference as its decomposition."""
    module = zenith.trace(jax.lax.composite(lambda *x: OPS[name].reference(spec, *x), name=name), *operands)
    with module.context, ir.Location.unknown():
        (op,) = zenith_composites(module.operation)
        op.attributes["composite_attributes"] = ir.DictAttr.get(spec.to_attributes())
        assert type(spec).from_attributes(from_attribute(composite_attributes(op))) == spec
    return module


def reasons(module: zenith.Module) -> list[str]:
    return [r.reason for r in module.remarks if r.pass_name == "lower-kernels" and r.kind == "missed"]


def rotary_spec(x: str, table: str, r: int, pairing: str, rotated: int = 16) -> RotarySpec:
    axes = {"b": 2, "t": 5, "h": 3, "d": 20, "r": r}
    return RotarySpec(axes, Layout.parse(x), Layout.parse(table), rotated, pairing)


def operands_of(spec: Any, dtype: str) -> list[jax.Array]:
    match spec:
        case RotarySpec():
            shapes = [layout.shape(spec.axes) for layout in (spec.x, spec.table, spec.table)]
            return [array(*shapes[0], dtype=dtype), *(array(*s, seed=i) for i, s in enumerate(shapes[1:]))]
        case SwigluSpec():
            widths = [F, F] if spec.halves == "none" else [2 * F]
            shapes = [(2, 5, w) for w in widths] + ([(w,) for w in widths] if spec.bias else [])
        case _:
            shapes = [(2, 5, F), *([(F,)] if spec.bias else [])]
    return [array(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)]


SPECS = [
    ("zenith.gelu", GeluSpec("none")),
    ("zenith.gelu", GeluSpec("tanh", bias=True)),
    ("zenith.silu", SiluSpec()),
    ("zenith.silu", SiluSpec(1.702, bias=True)),
    ("zenith.swiglu", SwigluSpec()),
    ("zenith.swiglu", SwigluSpec("gelu", bias=True)),
    ("zenith.swiglu", SwigluSpec("gelu_tanh", halves="gate_first")),
    ("zenith.swiglu", SwigluSpec("silu", 1.5, halves="gate_last", bias=True)),
    ("zenith.rotary", rotary_spec("b t h d", "t r", 16, "half")),
    ("zenith.rotary", rotary_spec("b h t d", "b t r", 8, "half")),
    ("zenith.rotary", rotary_spec("(b t) h d", "b t 1 r", 8, "interleaved")),
    ("zenith.rotary", rotary_spec("b t h d", "t 1 r", 20, "interleaved", rotated=20)),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("vjp", [False, True])
@pytest.mark.parametrize(("name", "spec"), SPECS, ids=lambda value: str(value))
def test_composites_become_calls(name: str, spec: Any, vjp: bool, dtype: str) -> None:
    operands = operands_of(spec, dtype)
    if vjp and name != "zenith.rotary":
        out = jax.eval_shape(lambda *x: OPS[name].reference(spec, *x), *operands)
        operands.append(array(*out.shape, dtype=dtype, seed=9))
    name += "_vjp" if vjp else ""
    module = composite(name, spec, operands)
    lowered = module.run(LOWER, target="cpu")
    assert reasons(lowered) == []
    assert lowered.text().count("stablehlo.custom_call @zenith_") == 1
    assert "composite" not in lowered.text()
    expected = jax.tree.leaves(OPS[name].reference(spec, *operands))
    tolerance = 1e-6 if dtype == "float32" else 1e-2
    for got, want in zip(lowered.compile()(*operands), expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got.astype(np.float32), want.astype(np.float32), rtol=tolerance, atol=tolerance)


def test_attributes_may_come_from_jax() -> None:
    x = array(3, F)
    call = jax.lax.composite(lambda x, **_: gelu.reference(GeluSpec("tanh"), x), name="zenith.gelu")
    module = zenith.trace(lambda x: call(x, approximate="tanh", bias=False), x).run(
        "lower-kernels{cost-model=false}", target="cpu"
    )
    assert "custom_call @zenith_activation" in module.text()


def test_float64_is_left_to_xla() -> None:
    with jax.enable_x64(True):
        module = composite("zenith.gelu", GeluSpec(), [array(3, F, dtype="float64")])
        lowered = module.run(LOWER, target="cpu")
    assert reasons(lowered) == ["the CPU kernel takes float32, bfloat16, float16, not float64"]
    assert "zenith" not in lowered.text()


@pytest.mark.parametrize(
    ("name", "spec", "shapes", "reason"),
    [
        ("zenith.gelu", GeluSpec(bias=True), [(3, 4), (1, 4)], "have shapes"),
        ("zenith.silu", SiluSpec(), [()], "x is a scalar"),
        ("zenith.swiglu", SwigluSpec(), [(3, 4), (1, 4)], "have shapes"),
    ],
)
def test_other_shapes_are_left_to_xla(name: str, spec: Any, shapes: list[tuple[int, ...]], reason: str) -> None:
    module = composite(name, spec, [array(*shape) for shape in shapes]).run(
        "lower-kernels{cost-model=false}", target="cpu"
    )
    (found,) = reasons(module)
    assert reason in found


@pytest.mark.parametrize(
    ("spec", "attributes", "message"),
    [
        (GeluSpec, {"bias": False}, "zenith.gelu has no attribute approximate"),
        (GeluSpec, {"approximate": "erf", "bias": False}, "'erf', expected one of none, tanh"),
        (GeluSpec, {"approximate": "none", "bias": 1}, "bias is 1, expected a bool"),
        (SiluSpec, {"slope": "1", "bias": False}, "slope is '1', expected a float"),
        (SwigluSpec, {"activation": "swish"}, "'swish', expected one of gelu, gelu_tanh, silu, sigmoid, relu"),
        (RotarySpec, {"axes": {"t": 2, "d": 4, "r": 2}, "x": "t d"}, "zenith.rotary has no attribute table"),
        (
            RotarySpec,
            {"axes": {"t": 2, "d": 4, "r": 3}, "x": "t d", "table": "t r", "rotated": 4, "pairing": "half"},
            "the tables have 3 columns, expected 4 or 2",
        ),
        (
            RotarySpec,
            {"axes": {"t": 2, "d": 4, "r": 2}, "x": "d t", "table": "t r", "rotated": 4, "pairing": "half"},
            "expected d and r last",
        ),
        (
            RotarySpec,
            {"axes": {"t": 2, "d": 4, "r": 2}, "x": "t d", "table": "t r", "rotated": 3, "pairing": "half"},
            "rotated is 3, expected an even number up to 4",
        ),
    ],
)
def test_bad_attributes_raise(spec: Any, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec.from_attributes(attributes)
