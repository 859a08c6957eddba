"""What the composites of a raised module say, held to what their decompositions compute, both in float64."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxlib.mlir import ir

import zenith_mlir as zenith
from zenith_mlir.certify.composites import isolated_composites
from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.dialects.table import OPS
from zenith_mlir.ir.composites import composite_attributes, composite_name, zenith_composites
from zenith_mlir.ir.facts import defining_op, shape
from zenith_mlir.ir.float64 import to_float64


def names(module: zenith.Module) -> list[str]:
    """The composites of `module`, in program order."""
    with module.context:
        return [composite_name(op).removeprefix("zenith.") for op in zenith_composites(module.operation)]


def spec_of(module: zenith.Module, number: int = 0) -> Any:
    """The attributes of one of the composites of `module`, read."""
    with module.context:
        composite = zenith_composites(module.operation)[number]
        return OPS[composite_name(composite)].read(from_attribute(composite_attributes(composite)))


def remarks(module: zenith.Module, kind: str, pass_name: str) -> list[zenith.Remark]:
    return [r for r in module.remarks if r.kind == kind and r.pass_name == pass_name]


def assert_attributes_hold(module: zenith.Module, integers: int = 1) -> None:
    """Every composite's `reference` computes what its decomposition does, for random operands; integers are drawn below
    `integers`. Residuals, which may be any that serve the gradient, are neither compared nor given to it.
    """
    for name, alone in isolated_composites(module):
        spec = spec_of(alone, -1)
        reference = importlib.import_module(f"zenith_mlir.dialects.{name.removeprefix('zenith.')}").reference
        wide = to_float64(alone)
        rng = np.random.default_rng(0)
        arguments = [
            rng.normal(0.3, 1.5, s.shape) if s.dtype.kind == "f" else rng.integers(0, integers, s.shape).astype(s.dtype)
            for s in wide.input_specs
        ]
        found = wide.run("expand-composites", target="none").compile("cpu")(*arguments)
        with jax.enable_x64(True):
            operands = [jax.numpy.asarray(x) for x in _operands(wide, arguments)]
            expected = jax.tree.leaves(jax.jit(partial(reference, spec, dtype=jax.numpy.float64))(*operands))
        count = 1 if getattr(spec, "residuals", False) else len(expected)
        for own, said in zip(found[-len(expected) :][:count], expected[:count], strict=True):
            message = f"{name}: {spec}"
            np.testing.assert_allclose(np.asarray(own), np.asarray(said), rtol=1e-6, atol=1e-6, err_msg=message)


def _operands(alone: zenith.Module, arguments: list[np.ndarray]) -> list[np.ndarray]:
    """What the last composite is given where the function is given `arguments`; nothing for residuals."""
    with alone.context:
        return [
            np.zeros(shape(value)) if op is not None else arguments[ir.BlockArgument(value).arg_number]
            for value in zenith_composites(alone.operation)[-1].operands
            for op in [defining_op(value)]
        ]
