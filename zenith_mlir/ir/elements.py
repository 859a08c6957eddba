"""The elements of constants of every type; the bindings hand out only those that Python has numbers for."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import element_type, shape, splat
from zenith_mlir.ir.signature import numpy_dtype

__all__ = ["elements", "splat_element"]

_TOKEN = re.compile(r"0x[0-9A-Fa-f]+|[-+]?[\d.]+(?:[eE][-+]?\d+)?|true|false")


def splat_element(constant: ir.Operation) -> np.ndarray[Any, Any]:
    """The one element of a splat constant, a scalar: its shape may be larger than what NumPy can count."""
    result = constant.results[0]
    number, dtype = splat(result), numpy_dtype(element_type(result))
    assert number is not None
    # Attributes hold signed bits; an unsigned number comes back as the negative one of the same bits.
    return np.asarray(int(number) % 2 ** (8 * dtype.itemsize) if dtype.kind == "u" else number, dtype)


def elements(constant: ir.Operation) -> np.ndarray[Any, Any]:
    """The value of a stablehlo.constant, read-only; a splat takes the memory of one element.

    Raises:
        ZenithError: for an element type with no NumPy dtype.
    """
    result = constant.results[0]
    dims, dtype = shape(result), numpy_dtype(element_type(result))
    number = splat(result)
    if number is not None:
        return np.broadcast_to(splat_element(constant), dims)
    try:
        return np.asarray(constant.attributes["value"]).astype(dtype, copy=False).reshape(dims)
    except (TypeError, ValueError):
        return _parse(str(constant.attributes["value"]), dtype, dims)


def _parse(text: str, dtype: np.dtype[Any], dims: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Of the text `dense<...> : tensor<...>`: a list of numbers, hexadecimal where these do not round-trip, or one
    string of bytes.
    """
    body = text[text.index("<") + 1 : text.rindex("> :")]
    if body.startswith('"0x'):
        found = np.frombuffer(bytes.fromhex(body[3:-1]), dtype)
    else:
        part = np.dtype(np.float32 if dtype == np.complex64 else np.float64) if dtype.kind == "c" else dtype
        found = np.array([_number(token, part) for token in _TOKEN.findall(body)], part).view(dtype)
    return np.broadcast_to(found, dims) if found.size == 1 else found.reshape(dims)


def _number(token: str, dtype: np.dtype[Any]) -> Any:
    if token.startswith("0x"):
        return np.frombuffer(int(token, 16).to_bytes(dtype.itemsize, "little"), dtype)[0]
    if token in ("true", "false"):
        return token == "true"
    return dtype.type(int(token) if re.fullmatch(r"[-+]?\d+", token) else float(token))
