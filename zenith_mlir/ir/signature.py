"""What `main` takes, as NumPy sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.errors import ZenithError

__all__ = ["InputSpec", "argument_attributes", "input_specs", "main_function", "numpy_dtype", "update_signature"]

_DTYPES = {
    "i1": "bool",
    **{f"i{n}": f"int{n}" for n in (2, 4, 8, 16, 32, 64)},
    **{f"ui{n}": f"uint{n}" for n in (2, 4, 8, 16, 32, 64)},
    **{f"f{n}": f"float{n}" for n in (16, 32, 64)},
    "bf16": "bfloat16",
    "complex<f32>": "complex64",
    "complex<f64>": "complex128",
    "f4E2M1FN": "float4_e2m1fn",
    "f6E2M3FN": "float6_e2m3fn",
    "f6E3M2FN": "float6_e3m2fn",
    "f8E3M4": "float8_e3m4",
    "f8E4M3": "float8_e4m3",
    "f8E4M3B11FNUZ": "float8_e4m3b11fnuz",
    "f8E4M3FN": "float8_e4m3fn",
    "f8E4M3FNUZ": "float8_e4m3fnuz",
    "f8E5M2": "float8_e5m2",
    "f8E5M2FNUZ": "float8_e5m2fnuz",
    "f8E8M0FNU": "float8_e8m0fnu",
}


@dataclass(frozen=True)
class InputSpec:
    """One argument of `main`: its shape (None for a dynamic dimension), NumPy dtype, and name.

    The name is the one JAX records, `params['w']`, or `arg0`.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    name: str


def input_specs(module: ir.Module) -> list[InputSpec]:
    """The arguments of the function `main`, in order.

    Raises:
        ZenithError: if there is no `main`, or it takes something that is no tensor.
    """
    arguments = main_function(module).regions[0].blocks[0].arguments
    return [_spec(argument, index) for index, argument in enumerate(arguments)]


def numpy_dtype(type_: ir.Type) -> np.dtype[Any]:
    """The NumPy dtype of an MLIR element type, one of ml_dtypes where NumPy has none.

    Raises:
        ZenithError: for a type with no dtype, as a quantized one.
    """
    name = _DTYPES.get(str(type_), "")
    if not name:
        raise ZenithError(f"the element type {type_} has no NumPy dtype")
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def main_function(module: ir.Module) -> ir.Operation:
    """The function `main`.

    Raises:
        ZenithError: if there is none with a body.
    """
    for view in module.body.operations:
        op = view.operation
        is_main = op.name == "func.func" and ir.StringAttr(op.attributes["sym_name"]).value == "main"
        if is_main and op.regions[0].blocks:
            return op
    raise ZenithError("the module has no function @main with a body; one is expected as its entry")


def argument_attributes(function: ir.Operation) -> list[ir.DictAttr]:
    """What is said of each argument of a func.func; empty if nothing is said of any."""
    if "arg_attrs" not in function.attributes:
        return []
    return [ir.DictAttr(each) for each in ir.ArrayAttr(function.attributes["arg_attrs"])]


def update_signature(main: ir.Operation) -> None:
    """Write the type of a function anew from what it takes and returns now; new arguments and results come last."""
    block = main.regions[0].blocks[0]
    arguments = [argument.type for argument in block.arguments]
    results = [operand.type for operand in list(block.operations)[-1].operation.operands]
    main.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get(arguments, results))
    for name, types in (("arg_attrs", arguments), ("res_attrs", results)):
        if name in main.attributes:
            known = list(ir.ArrayAttr(main.attributes[name]))
            main.attributes[name] = ir.ArrayAttr.get(known + [ir.DictAttr.get({})] * (len(types) - len(known)))


def _spec(argument: ir.BlockArgument, index: int) -> InputSpec:
    if not isinstance(argument.type, ir.RankedTensorType):
        raise ZenithError(f"argument {index} of @main is {argument.type}; a ranked tensor is expected")
    type_ = ir.RankedTensorType(argument.type)
    shape = tuple(None if type_.is_dynamic_dim(i) else type_.get_dim_size(i) for i in range(type_.rank))
    name = argument.location.name_str if isinstance(argument.location, ir.NameLoc) else ""
    return InputSpec(shape, numpy_dtype(type_.element_type), name or f"arg{index}")
