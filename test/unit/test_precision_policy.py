"""Precision policies: how they are written, and what they cast."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zenith_mlir as zenith
from zenith_mlir.precision.policy import Policy, PolicyError

pytestmark = pytest.mark.once

POLICIES = {
    "params=float32,compute=bfloat16,output=float32": ("float32", "bfloat16", "float32"),
    " output = f16 , params = bf16 , compute = f32 ": ("bfloat16", "float32", "float16"),
    "p=f32,c=bf16,o=half": ("float32", "bfloat16", "float16"),
    "compute=bfloat16": ("float32", "bfloat16", "float32"),
    "params=bfloat16": ("bfloat16", "bfloat16", "bfloat16"),
    "params=bfloat16,output=float32": ("bfloat16", "bfloat16", "float32"),
    "float32": ("float32", "float32", "float32"),
    "full": ("float32", "float32", "float32"),
    "bfloat16": ("bfloat16", "bfloat16", "bfloat16"),
    "float16": ("float16", "float16", "float16"),
    "half": ("float16", "float16", "float16"),
    "mixed_bfloat16": ("float32", "bfloat16", "float32"),
    "mixed_float16": ("float32", "float16", "float32"),
}

REFUSED = {
    "mixed_bfloat": "did you mean mixed_bfloat16",
    "": "expected one of float32",
    "params=float32,compute": "or params=float32,compute=bfloat16,output=float32",
    "parms=float32": r"'parms'.*none of params, compute, output \(did you mean param",
    "params=float32,p=float16": "gives params twice",
    "compute=int8": "int8 is no floating-point type",
    "compute=bloat16": r"'bloat16' is no dtype \(did you mean",
    "compute=": "'' is no dtype",
}


@pytest.mark.parametrize("text", POLICIES)
def test_a_policy_is_what_its_text_says_and_writes_itself(text: str) -> None:
    policy = Policy.parse(text)
    assert tuple(map(str, (policy.param_dtype, policy.compute_dtype, policy.output_dtype))) == POLICIES[text]
    assert Policy.parse(str(policy)) == policy == Policy(*POLICIES[text])
    assert hash(Policy.parse(str(policy))) == hash(policy)


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_read_says_what_was_expected(text: str) -> None:
    with pytest.raises(PolicyError, match=REFUSED[text]):
        Policy.parse(text)


@pytest.mark.parametrize("dtype", [None, jnp.complex64, jnp.bool_, object()])
def test_only_floating_dtypes_are_policies(dtype: object) -> None:
    with pytest.raises(PolicyError):
        Policy(jnp.float32, dtype, jnp.float32)


def test_only_floating_arrays_are_cast() -> None:
    class Config:
        dtype = jnp.float32

    untouched = {
        "integer": jnp.arange(3),
        "boolean": jnp.array(True),
        "key": jax.random.key(0),
        "old key": jax.random.PRNGKey(0),
        "complex": jnp.ones(2, jnp.complex64),
        "number": 1.5,
        "name": "w",
        "function": jnp.tanh,
        "not an array": Config(),
    }
    floats = {
        "wide": jnp.full(2, 1 + 2.0**-9),
        "narrow": jnp.ones((), jnp.float16),
        "numpy": np.ones(3, np.float64),
        "numpy number": np.float32(2),
        "only a shape": jax.ShapeDtypeStruct((2,), jnp.float32),
    }
    policy = Policy("float32", "bfloat16", "float16")
    for cast, dtype in (
        (policy.cast_to_params, jnp.float32),
        (policy.cast_to_compute, jnp.bfloat16),
        (policy.cast_to_output, jnp.float16),
    ):
        result = cast((untouched, [floats, None]))
        assert all(result[0][name] is untouched[name] for name in untouched)
        assert {name: leaf.dtype for name, leaf in result[1][0].items()} == dict.fromkeys(floats, dtype)
        assert result[1][1] is None
    # Rounded, not cut off or relabelled.
    assert policy.cast_to_compute(floats)["wide"].tolist() == [1.0, 1.0]


def test_precision_is_reached_lazily() -> None:
    assert zenith.precision.Policy is Policy
    assert all(getattr(zenith.precision, name) is not None for name in zenith.precision.__all__)
    code = "import sys, zenith_mlir; zenith_mlir.precision; sys.exit('jax' in sys.modules or 'flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
