"""docs/dialect.md is what the declarations say, and they say something of every attribute of every op."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import pytest
from ops_cases import CASES

import zenith_mlir as zenith
from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.dialects.declaration import DECLARATIONS
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
    unexplained = {}
    for case in CASES:
        if case.op == "matmul":
            continue

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
    assert unexplained == {name: set() for name in OPS if name != "zenith.matmul"}


def test_text_of_other_blocks_is_no_table_of_attributes(generate: ModuleType) -> None:
    assert "    dx = r (g - mean g" in generate.section(OPS["zenith.layer_norm_vjp"])
    assert "| `epsilon` | f64 |  | inside the root |" in generate.section(OPS["zenith.layer_norm_vjp"])
