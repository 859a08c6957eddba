"""Linear algebra, which ONNX has no operators for, against LAPACK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnx_ir
import pytest
from jax import export, lax
from unit.onnx_checks import run_model, same

from zenith_mlir.module import Module, trace
from zenith_mlir.onnx import export_onnx
from zenith_mlir.onnx.linalg import expand_linalg
from zenith_mlir.onnx.model import Interface, Unconvertible, build_model
from zenith_mlir.onnx.options import Options

pytestmark = pytest.mark.once
RANDOM = np.random.default_rng(0)
SQUARE = RANDOM.normal(size=(5, 5)).astype("float32")
SIDES = RANDOM.normal(size=(5, 2)).astype("float32")
POSITIVE = (SQUARE @ SQUARE.T + np.eye(5)).astype("float32")
SYMMETRIC = SQUARE + SQUARE.T
TALL = RANDOM.normal(size=(6, 4)).astype("float32")
SEVERAL = RANDOM.normal(size=(2, 3, 3)).astype("float32")


def check(fn: Callable[..., Any], *args: np.ndarray, opset: int = 23, tolerance: float = 1e-5) -> None:
    wants = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.jit(fn)(*args))]
    for got, want in zip(run_model(_model(trace(fn, *args), opset), list(args)), wants, strict=True):
        same(got, want, tolerance)


def _model(module: Module, opset: int = 23):
    module = module.run("prepare")
    expand_linalg(module)
    return build_model(module, Interface(), Options(opset=opset))[0]


def _t(a):
    return jnp.swapaxes(a, -1, -2)


def test_cholesky() -> None:
    third = POSITIVE - 100 * np.diag([0, 0, 1, 0, 0]).astype("float32")  # The leading minor of order 3 is negative.
    for a in (POSITIVE[:2, :2], third, SEVERAL @ SEVERAL.swapaxes(1, 2)):
        check(jnp.linalg.cholesky, a)
    check(lambda a: jnp.linalg.cholesky(a, upper=True), POSITIVE, opset=17)
    # One of two is not positive; only one triangle is read.
    check(lambda a: lax.linalg.cholesky(a, symmetrize_input=False), np.stack([np.tril(POSITIVE), -POSITIVE]))


@pytest.mark.parametrize("left", [True, False])
def test_triangular_solve(left: bool) -> None:
    b = SIDES if left else SIDES.T.copy()
    for lower, transpose, unit in [
        (True, False, False),
        (False, True, False),
        (True, True, True),
        (False, False, True),
    ]:
        options = {"left_side": left, "lower": lower, "transpose_a": transpose, "unit_diagonal": unit}
        check(lambda a, b: lax.linalg.triangular_solve(a, b, **options), SQUARE, b)  # noqa: B023


def test_operations_of_stablehlo() -> None:
    text = """
      func.func @main(%a: tensor<5x5xf32>, %b: tensor<5x2xf32>) -> (tensor<5x5xf32>, tensor<5x2xf32>) {
        %0 = stablehlo.cholesky %a, lower = true : tensor<5x5xf32>
        %1 = "stablehlo.triangular_solve"(%0, %b) <{left_side = true, lower = true, unit_diagonal = false,
          transpose_a = #stablehlo<transpose TRANSPOSE>}> : (tensor<5x5xf32>, tensor<5x2xf32>) -> tensor<5x2xf32>
        return %0, %1 : tensor<5x5xf32>, tensor<5x2xf32>
      }
    """
    factor, x = run_model(_model(Module.parse(text)), [POSITIVE, SIDES])
    want = np.linalg.cholesky(POSITIVE)
    same(np.tril(factor), want, 1e-5)
    same(x, np.linalg.solve(want.T, SIDES), 1e-5)


def test_lu() -> None:
    singular = SQUARE.copy()
    singular[:, 2] = 0
    check(lambda *each: [lax.linalg.lu(a) for a in each], TALL, TALL.T.copy(), singular)
    check(jnp.linalg.solve, SQUARE, SIDES, opset=17)
    check(lambda a: (jnp.linalg.inv(a), *jnp.linalg.slogdet(a)), SEVERAL)
    check(lambda a: (jnp.linalg.inv(a), jnp.linalg.det(a)), np.zeros((2, 2), np.float32))


def test_tridiagonal_solve() -> None:
    below, diagonal, above = SQUARE[:3].copy()
    below[0] = above[-1] = diagonal[0] = 0  # rows have to be exchanged
    check(lax.linalg.tridiagonal_solve, below, diagonal, above, SIDES)


def test_qr() -> None:
    # A column that is clear below its first element has no reflection.
    clear = np.triu(TALL)
    clear[:, 1] *= 1e30
    check(lambda *each: [jnp.linalg.qr(a, mode="raw") for a in each], TALL.T.copy(), SEVERAL, clear)
    check(lambda a: tuple(jnp.linalg.qr(a)), TALL, opset=17)
    check(lambda a: tuple(jnp.linalg.qr(a, mode="complete")), TALL)
    if hasattr(lax.linalg, "ormqr"):
        c = RANDOM.normal(size=(6, 2)).astype("float32")
        for left, transpose in [(True, True), (True, False), (False, True)]:
            product = lambda a, t, c: lax.linalg.ormqr(a, t, c, left=left, transpose=transpose)  # noqa: B023, E731
            check(product, TALL, np.ones(4, np.float32), c if left else c.T.copy())


def _values_and_product(a):
    w, v = jnp.linalg.eigh(a)
    return w, (v * w[..., None, :]) @ _t(v), _t(v) @ v


def test_eigh() -> None:
    several = SEVERAL + SEVERAL.swapaxes(1, 2)
    check(lambda *each: [_values_and_product(a) for a in each], several, SYMMETRIC[:1, :1], np.eye(4, dtype=np.float32))
    check(_values_and_product, 1e30 * SYMMETRIC, opset=17)
    check(jnp.linalg.eigvalsh, np.full((3, 3), np.nan, np.float32))
    big = RANDOM.normal(size=(24, 24)).astype("float32")
    check(_values_and_product, big + big.T)


def _values_and_products(full: bool):
    def fn(a):
        u, s, vt = jnp.linalg.svd(a, full_matrices=full)
        least = s.shape[-1]
        return s, (u[..., :least] * s[..., None, :]) @ vt[..., :least, :], _t(u) @ u, vt @ _t(vt)

    return fn


def test_svd() -> None:
    low_rank = np.ones((5, 3), np.float32)
    whole = _values_and_products(full=True)
    check(lambda *each: [whole(a) for a in each], TALL.T.copy(), low_rank, np.zeros((3, 3), np.float32))
    check(_values_and_products(full=False), SEVERAL, opset=17)
    values = lambda a: jnp.linalg.svd(a, compute_uv=False)  # noqa: E731
    check(lambda *each: [values(a) for a in each], 1e25 * TALL, np.full((3, 2), np.nan, np.float32))


def test_double_precision() -> None:
    with jax.enable_x64(True):
        check(jnp.linalg.solve, SQUARE.astype("float64"), SIDES.astype("float64"), tolerance=1e-13)
        check(_values_and_product, SYMMETRIC.astype("float64"), tolerance=1e-13)


def test_symbolic_batch() -> None:
    def fn(a, b):
        return jnp.linalg.solve(a, b), jnp.linalg.qr(b)[1]

    shapes = export.symbolic_args_specs((SEVERAL, SEVERAL[..., :2]), ["b, 3, 3", "b, 3, 2"])
    model = onnx_ir.from_proto(onnx.load_from_string(export_onnx(fn, shapes, validate=False).model_bytes))
    a = RANDOM.normal(size=(4, 3, 3)).astype("float32")
    arrays = [a + a.swapaxes(1, 2), a[..., :2].copy()]
    for got, want in zip(run_model(model, arrays), jax.jit(fn)(*arrays), strict=True):
        same(got, np.asarray(want), 1e-5)


def test_what_is_refused() -> None:
    with pytest.raises(Unconvertible, match="lapack_sgees_ffi: of linear algebra these are converted"):
        _model(trace(lambda a: lax.linalg.schur(a), SQUARE))
    module = trace(jnp.linalg.cholesky, POSITIVE).run("prepare")
    expand_linalg(module, is_symbolic=lambda size: size == 5)
    with pytest.raises(Unconvertible, match="whose sizes are known"):
        build_model(module, Interface())
