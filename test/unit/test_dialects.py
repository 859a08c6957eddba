"""docs/dialect.md is what the declarations say, and they say something of every attribute of every op; attributes that
are none are refused in words.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from ops_cases import CASES

import zenith_mlir as zenith
from zenith_mlir.dialects.attention import AttentionSpec
from zenith_mlir.dialects.attention_vjp import AttentionVjpSpec
from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.dialects.declaration import DECLARATIONS
from zenith_mlir.dialects.group_norm import GroupNormSpec
from zenith_mlir.dialects.table import OPS
from zenith_mlir.ir.composites import composite_attributes, composite_name, zenith_composites

pytestmark = pytest.mark.once
SCRIPT = Path(__file__).parents[2] / "docs" / "generate_dialect.py"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    found = importlib.util.spec_from_file_location("generate_dialect", SCRIPT)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_page_is_up_to_date(generate: ModuleType) -> None:
    assert generate.PAGE.read_text() == generate.page(), "run python docs/generate_dialect.py"


def test_every_op_is_declared() -> None:
    assert DECLARATIONS.keys() == OPS.keys()
    assert all(row.limits for op in OPS.values() for row in op.implementations)


def test_every_attribute_has_a_meaning(generate: ModuleType) -> None:
    """Those that programs have, of every op and gradient."""
    fields = {field.name for field in dataclasses.fields(GroupNormSpec)}
    unexplained = {GroupNormSpec.OP: fields - generate.attributes(OPS[GroupNormSpec.OP]).keys()}
    for case in CASES:

        def loss(*operands: jax.Array, case=case) -> jax.Array:
            return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(case.call(*operands)))

        module = zenith.trace(jax.value_and_grad(loss), *case.operands)
        for composite in zenith_composites(module.operation):
            name = composite_name(composite)
            written = from_attribute(composite_attributes(composite))
            known = generate.attributes(OPS[name])
            if name == "zenith.attention_vjp":
                known |= generate.attributes(OPS["zenith.attention"])
            unexplained[name] = written.keys() - known.keys()
    assert unexplained == {name: set() for name in OPS}


def test_text_of_other_blocks_is_no_table_of_attributes(generate: ModuleType) -> None:
    assert "    dx = r (g - mean g" in generate.section(OPS["zenith.layer_norm_vjp"])
    assert "| `epsilon` | f64 |  | inside the root |" in generate.section(OPS["zenith.layer_norm_vjp"])


ATTENTION: dict[str, Any] = {
    "axes": {"t": 4, "s": 4, "d": 8, "e": 8},
    "q": "t d",
    "k": "s d",
    "v": "s e",
    "out": "t e",
    "escapes": False,
    "residuals": False,
}


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"q": 1}, "zenith.attention: attribute q is 1, expected a str"),
        ({"steps": [{"kind": "swish"}]}, "zenith.attention has no step 'swish'; there are scale, offset"),
        ({"steps": [{"kind": "tanh", "value": 2.0}]}, "the step 'tanh' takes nothing, got value=2.0"),
        ({"escapes": "no"}, "zenith.attention: attribute escapes is 'no', expected a bool"),
        ({"sources": 3}, "zenith.attention: attribute sources is 3, expected a list"),
    ],
)
def test_attributes_of_attention_that_do_not_fit(attributes: dict[str, Any], message: str) -> None:
    AttentionSpec.from_attributes(ATTENTION)
    with pytest.raises(ValueError, match=re.escape(message)):
        AttentionSpec.from_attributes(ATTENTION | attributes)


def test_attributes_of_attention_that_lack() -> None:
    with pytest.raises(ValueError, match=r"zenith.attention lacks the attributes k, out"):
        AttentionSpec.from_attributes({name: fact for name, fact in ATTENTION.items() if name not in ("k", "out")})
    with pytest.raises(ValueError, match=r"zenith.attention_vjp has no attribute gradients"):
        AttentionVjpSpec.from_attributes(ATTENTION)
