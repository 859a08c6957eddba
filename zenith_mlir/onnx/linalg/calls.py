"""What each routine of LAPACK, and each operation of StableHLO that stands for one, computes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import shape
from zenith_mlir.onnx.linalg.cholesky import potrf
from zenith_mlir.onnx.linalg.eigh import syevd
from zenith_mlir.onnx.linalg.lu import getrf
from zenith_mlir.onnx.linalg.matrices import Array
from zenith_mlir.onnx.linalg.qr import geqrf, orgqr, ormqr
from zenith_mlir.onnx.linalg.svd import gesdd
from zenith_mlir.onnx.linalg.triangular import trsm
from zenith_mlir.onnx.linalg.tridiagonal import gtsv

__all__ = ["Function", "function_of"]

Function = Callable[..., Any]
_LOWER, _LEFT, _UNIT, _NOT_TRANSPOSED, _WITHOUT_VECTORS, _ALL = map(ord, "LLUNNA")


def function_of(op: ir.Operation) -> Function | None:
    """The function of the operands of `op`, or None where `op` is nothing of linear algebra that is known."""
    if op.name in _OPERATIONS:
        return _OPERATIONS[op.name](op)
    if op.name != "stablehlo.custom_call":
        return None
    name = re.fullmatch(r"lapack_[sd](\w+)_ffi", ir.StringAttr(op.attributes["call_target_name"]).value)
    if name is None or name[1] not in _ROUTINES:
        return None
    return _ROUTINES[name[1]](op, _attributes(op))


def _attributes(op: ir.Operation) -> Mapping[str, int]:
    """The options of a call; letters are numbers, as LAPACK has them."""
    if "mhlo.backend_config" not in op.attributes:
        return {}
    config = ir.DictAttr(op.attributes["mhlo.backend_config"])
    found: Mapping[str, Any] = {named.name: named.attr for named in map(config.__getitem__, range(len(config)))}
    return {name: int(attribute.value) for name, attribute in found.items()}


def _potrf(op: ir.Operation, said: Mapping[str, int]) -> Function:
    return partial(potrf, lower=said["uplo"] == _LOWER)


def _trsm(op: ir.Operation, said: Mapping[str, int]) -> Function:
    return partial(
        trsm,
        left=said["side"] == _LEFT,
        lower=said["uplo"] == _LOWER,
        transpose=said["trans_x"] != _NOT_TRANSPOSED,
        unit=said["diag"] == _UNIT,
    )


def _ormqr(op: ir.Operation, said: Mapping[str, int]) -> Function:
    return partial(ormqr, left=bool(said["left"]), transpose=bool(said["transpose"]))


def _syevd(op: ir.Operation, said: Mapping[str, int]) -> Function:
    return partial(syevd, lower=said["uplo"] == _LOWER)


def _gesdd(op: ir.Operation, said: Mapping[str, int]) -> Function:
    """The call returns what it made of A first, which means nothing. It has results for vectors even without any."""
    if said["mode"] != _WITHOUT_VECTORS:
        return partial(_with_vectors, full=said["mode"] == _ALL)
    vectors = [shape(value) for value in list(op.results)[2:4]]

    def values_only(a: Array) -> tuple[Array, ...]:
        _, s, _, info = gesdd(a, full=False)
        return (a, s, *(jnp.zeros(dims, a.dtype) for dims in vectors), info)

    return values_only


def _with_vectors(a: Array, full: bool) -> tuple[Array, ...]:
    u, s, vt, info = gesdd(a, full)
    return a, s, u, vt, info


def _plain(function: Function) -> Callable[[ir.Operation, Mapping[str, int]], Function]:
    return lambda op, said: function


_ROUTINES: dict[str, Callable[[ir.Operation, Mapping[str, int]], Function]] = {
    "geqrf": _plain(geqrf),
    "gesdd": _gesdd,
    "getrf": _plain(getrf),
    "gtsv": _plain(gtsv),
    "orgqr": _plain(orgqr),
    "ormqr": _ormqr,
    "potrf": _potrf,
    "syevd": _syevd,
    "trsm": _trsm,
}


def _cholesky(op: ir.Operation) -> Function:
    lower = "lower" in op.attributes and bool(ir.BoolAttr(op.attributes["lower"]).value)
    return lambda a: potrf(a, lower)[0]


def _triangular_solve(op: ir.Operation) -> Function:
    left, lower, unit = (
        bool(ir.BoolAttr(op.attributes[name]).value) for name in ("left_side", "lower", "unit_diagonal")
    )
    transpose = "NO_TRANSPOSE" not in str(op.attributes["transpose_a"])
    return partial(trsm, left=left, lower=lower, transpose=transpose, unit=unit)


_OPERATIONS: dict[str, Callable[[ir.Operation], Function]] = {
    "stablehlo.cholesky": _cholesky,
    "stablehlo.triangular_solve": _triangular_solve,
}
