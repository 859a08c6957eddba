"""zenith.matmul: what the attributes say, and that a lowered composite computes what its decomposition does."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlib.mlir import ir

import zenith_mlir as zenith
from zenith_mlir.certify import certify_composites
from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.dialects.matmul import MatmulSpec, Step, reference

pytestmark = pytest.mark.once

LOWER = "lower-kernels{cost-model=false}"  # the shapes are too small to pay

layout = Layout.parse
AXES = {"b": 2, "t": 33, "k": 40, "h": 3, "d": 16, "n": 24}


def spec(lhs: str, rhs: str, out: str, modifiers: tuple[str, ...] = (), steps: tuple[Step, ...] = ()) -> MatmulSpec:
    return MatmulSpec(AXES, layout(lhs), layout(rhs), layout(out), tuple(map(layout, modifiers)), steps)


SPECS = {
    "plain": spec("(b t) k", "k n", "(b t) n"),
    "projection to heads": spec("b t k", "k (h d)", "b h t d", ("(h d)",), (Step("add", operand=2),)),
    "projection from heads": spec("b t h d", "(h d) n", "b t n"),
    "batched": spec("b t k", "b n k", "b t n"),
    "feed-forward": spec(
        "b t k",
        "k n",
        "b t n",
        ("n", "b t n"),
        (Step("add", operand=2), Step("gelu_tanh"), Step("add", operand=3)),
    ),
    "gated": spec("b t k", "k n", "b t n", ("b t n",), (Step("silu"), Step("multiply", operand=2))),
    "rounds on the way": spec(
        "b t k", "k n", "b t n", ("n",), (Step("round", dtype="bfloat16"), Step("add", operand=2), Step("gelu"))
    ),
    "scaled": spec("b t k", "k n", "b t n", (), (Step("scale", 0.125), Step("offset", 1.0), Step("relu"))),
}


def arrays(spec: MatmulSpec, dtype: Any = jnp.bfloat16) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    layouts = [spec.lhs, spec.rhs, *spec.modifiers]
    return [jnp.asarray(rng.normal(size=layout.shape(spec.axes)), dtype) for layout in layouts]


def composite(spec: MatmulSpec, operands: list[jax.Array], out_dtype: Any = jnp.bfloat16) -> zenith.Module:
    """A program that is one zenith.matmul with the formula as its decomposition."""
    formula = zenith.trace(lambda *a: reference(spec, *a, out_dtype=out_dtype), *operands).text()
    with ir.Context(), ir.Location.unknown():
        attributes = str(ir.DictAttr.get(spec.attributes()))
    types = [_tensor(x.shape, x.dtype) for x in operands]
    result = _tensor(spec.out.shape(spec.axes), out_dtype)
    names = [f"%a{i}" for i in range(len(types))]
    arguments = ", ".join(f"{name}: {type_}" for name, type_ in zip(names, types, strict=True))
    main = (
        f"func.func public @main({arguments}) -> {result} {{\n"
        f'%r = stablehlo.composite "zenith.matmul" {", ".join(names)} '
        f"{{composite_attributes = {attributes}, decomposition = @formula}} : ({', '.join(types)}) -> {result}\n"
        f"return %r : {result}\n}}\n"
    )
    before, after = formula.split("func.func public @main")
    return zenith.Module.parse(f"{before}{main}func.func private @formula{after}")


def _tensor(shape: tuple[int, ...], dtype: Any) -> str:
    name = {"bfloat16": "bf16", "float16": "f16", "float32": "f32", "float64": "f64"}[jnp.dtype(dtype).name]
    return f"tensor<{'x'.join([*map(str, shape), name])}>"


@pytest.mark.parametrize("name", SPECS)
def test_lowered_composites_are_sound(name: str) -> None:
    module = composite(SPECS[name], arrays(SPECS[name]))
    lowered = module.run(LOWER, target="cpu")
    assert lowered.text().count("custom_call @zenith_matmul") == 1, lowered.remarks
    assert "stablehlo.dot_general" not in lowered.text() and "stablehlo.transpose" not in lowered.text()
    (certificate,) = certify_composites(module, target=zenith.Target.parse("cpu"))
    assert certificate.sound, certificate.summary
    assert "cpu-matmul" in certificate.note


@pytest.mark.parametrize("name", SPECS)
def test_attributes_come_back(name: str) -> None:
    with ir.Context(), ir.Location.unknown():
        written = {key: from_attribute(value) for key, value in SPECS[name].attributes().items()}
    assert MatmulSpec.from_attributes(written) == SPECS[name]


def test_float32_is_left_to_xla() -> None:
    module = composite(SPECS["plain"], arrays(SPECS["plain"], jnp.float32), jnp.float32)
    lowered = module.run(LOWER, target="cpu")
    assert [r.reason for r in lowered.remarks] == ["products of float32 are left to XLA, which is as fast"]
    assert "stablehlo.dot_general" in lowered.text() and "zenith" not in lowered.text()


def test_the_formula_is_the_product_of_the_arrays() -> None:
    lhs, rhs, bias = arrays(SPECS["projection to heads"], jnp.float32)
    expected = jnp.einsum("btk,khd->bhtd", lhs, rhs.reshape(40, 3, 16)) + bias.reshape(3, 1, 16)
    np.testing.assert_allclose(reference(SPECS["projection to heads"], lhs, rhs, bias), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"out": "t d"}, r"the axes \['n'\] are summed over but belong to one operand alone"),
        ({"out": "t n h"}, r"the result has axes \['h'\] that no operand has"),
        ({"lhs": "x k"}, r'lhs = "x k" has axes \[\'x\'\] whose sizes are not given'),
        ({"modifiers": ["k"]}, 'modifier 0 = "k" has axes that the result "t n" lacks'),
        ({"steps": [{"kind": "add", "operand": 2}]}, "step 'add' names operand 2"),
        ({"steps": [{"kind": "swish"}]}, "zenith.matmul has no step 'swish'; there are scale"),
        ({"steps": [{"kind": "scale"}]}, "the step 'scale' takes value, got value=None"),
        ({"steps": [{"kind": "relu", "value": 1.0}]}, "the step 'relu' takes nothing, got value=1.0"),
        ({"steps": [{"kind": "round", "dtype": "int8"}]}, "a step rounds to bfloat16 or float16, not to int8"),
    ],
)
def test_attributes_that_do_not_fit(attributes: dict[str, Any], message: str) -> None:
    whole: dict[str, Any] = {"axes": AXES, "lhs": "t k", "rhs": "k n", "out": "t n"}
    with pytest.raises(ValueError, match=message):
        MatmulSpec.from_attributes(whole | attributes)


def test_missing_attributes_are_named() -> None:
    with pytest.raises(ValueError, match=r"zenith\.matmul lacks the attributes axes, rhs, out"):
        MatmulSpec.from_attributes({"lhs": "t k"})


def test_verify_names_the_role() -> None:
    with pytest.raises(ValueError, match=r'rhs is laid out "k n" = \[40, 24\], but has shape \[24, 40\]'):
        SPECS["plain"].verify([(66, 40), (24, 40)], (66, 24))
