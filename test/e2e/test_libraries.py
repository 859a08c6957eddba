"""Real libraries, traced live: every site is found and fused, the result is sound, and plain jax.jit gives it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from library_models import MODELS, Model

import zenith_mlir as zenith
from zenith_mlir.certify import certify_pair
from zenith_mlir.pipeline import PIPELINES

FUSE = PIPELINES["default"].replace("lower-kernels", "lower-kernels{min-seq=0 cost-model=false}")


@pytest.fixture(params=MODELS, ids=lambda build: build.__name__)
def model(request: pytest.FixtureRequest) -> Model:
    build: Callable[[], Model] = request.param
    try:
        return build()
    except ImportError as error:
        pytest.skip(str(error))


def passed(remarks: Iterable[zenith.Remark], stage: str) -> Counter[str]:
    """Composites that were raised, or lowered, by name."""
    found = (r for r in remarks if r.kind == "passed" and r.pass_name.startswith(stage))
    return Counter(r.op.removeprefix("zenith.") for r in found)


def missed(remarks: Iterable[zenith.Remark]) -> list[str]:
    return [r.text() for r in remarks if r.kind == "missed"]


@pytest.mark.once
def test_every_site_is_fused_and_sound(model: Model) -> None:
    function, arguments, sites = model
    original = zenith.trace(function, *arguments)
    fused = original.run(FUSE, target="cpu")
    assert passed(fused.remarks, "raise-") == passed(fused.remarks, "lower-kernels") == sites
    assert not missed(fused.remarks)
    flat = [np.asarray(x) for x in jax.tree.leaves(arguments)]
    certificate = certify_pair(original, fused, inputs=[("the model's own", flat)])
    assert certificate.sound, certificate.summary


def test_plain_jit_under_the_hook_gives_the_same(model: Model) -> None:
    function, arguments, sites = model
    jitted = jax.jit(function)
    plain = np.asarray(jitted(*arguments))
    with zenith.pipeline(FUSE, strict=True) as scope:
        fused = np.asarray(jitted(*arguments))
        assert "custom_call @zenith_attention" in jitted.lower(*arguments).as_text()
    assert passed(scope.remarks, "lower-kernels") >= Counter(sites)
    np.testing.assert_allclose(fused, plain, rtol=0, atol=2e-5 * np.abs(plain).max())
    assert "zenith_attention" not in jitted.lower(*arguments).as_text()


def test_every_gradient_is_fused_and_sound(model: Model) -> None:
    """Under jax.grad each site is found with its backward. A block's only norm is of its input, which has none."""
    function, arguments, sites = model
    parameters, *rest = arguments

    def loss(parameters: object, *rest: object) -> jax.Array:
        return jnp.mean(jnp.square(function(parameters, *rest).astype(jnp.float32)))

    original = zenith.trace(jax.value_and_grad(loss, allow_int=True), parameters, *rest)
    fused = original.run(FUSE, target="cpu")
    found = passed(fused.remarks, "raise-")
    assert {op: found[op] for op in sites} == sites
    backward = {op: found[f"{op}_vjp"] for op in sites}
    assert backward == (sites | {"layer_norm": 0} if sites.get("layer_norm") == 1 else sites)
    assert passed(fused.remarks, "lower-kernels") == found
    assert not missed(fused.remarks)
    flat = [np.asarray(x) for x in jax.tree.leaves(arguments)]
    certificate = certify_pair(original, fused, inputs=[("the model's own", flat)])
    assert certificate.sound, certificate.summary


@pytest.mark.once
def test_plain_jit_of_a_gradient_under_the_hook_gives_the_same(model: Model) -> None:
    function, arguments, _ = model
    parameters, *rest = arguments

    def loss(parameters: object, *rest: object) -> jax.Array:
        return jnp.sum(function(parameters, *rest) ** 2)

    gradient = jax.jit(jax.grad(loss, allow_int=True))
    plain = jax.tree.leaves(gradient(parameters, *rest))
    with zenith.pipeline(FUSE, strict=True):
        under = jax.tree.leaves(gradient(parameters, *rest))
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(plain, under, strict=True) if a.dtype == jnp.float32]
    # Some gradients are zero but for rounding (the bias of the keys), so errors are measured against the largest.
    scale = max(float(np.abs(a).max()) for a, _ in pairs)
    for a, b in pairs:
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * scale)
