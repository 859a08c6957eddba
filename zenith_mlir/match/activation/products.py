"""Products of a tensor with an activation of x or with its derivative, however they are multiplied out.

A value of the cone of x and t is such a product if it is linear in t and, at t = 1, the activation's function or its
derivative at every point.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op, element_type, float_width, is_float, users
from zenith_mlir.match.activation.cone import SCALES, Cone, Sample, constant, scaled_copies
from zenith_mlir.match.activation.elementwise import Array
from zenith_mlir.match.activation.known import Activation, equal, equal_derivatives, recognise, recognise_derivative

# An activation is multiplied by few things: the other half of a gate, cotangents.
_MAX_PARTNERS = 8


@dataclass(frozen=True)
class Product:
    """`value` is `operand` times the activation, or its `derivative`."""

    value: ir.Value
    operand: ir.Value
    derivative: bool
    activation: Activation


def partners(cone: Cone) -> list[ir.Value]:
    """What `cone`'s exponentials are multiplied by, without what is of the cone itself."""
    found: dict[ir.Value, None] = {}
    for value, _ in cone.deep_values():
        for user in users(value):
            if user.block == cone.block and user.name in _MULTIPLYING and len(found) < _MAX_PARTNERS:
                other = user.operands[0] if user.operands[0] != value else user.operands[1]
                if user.name == "stablehlo.divide" and other != user.operands[0]:
                    continue
                if other not in cone.samples and constant(other) is None:
                    found.setdefault(multiple_of(other, cone.samples), None)
    return [value for value in found if value not in cone.samples]


_MULTIPLYING = ("stablehlo.multiply", "stablehlo.divide")
_LINEAR = (*_MULTIPLYING, "stablehlo.negate", "stablehlo.convert")


def multiple_of(value: ir.Value, known: Container[ir.Value] = ()) -> ir.Value:
    """The value that `value` is a constant times, or something `known` times."""
    while (op := defining_op(value)) is not None and op.name in _LINEAR:
        tensors = [operand for operand in op.operands if operand not in known and constant(operand) is None]
        divisor = op.name == "stablehlo.divide" and tensors != [op.operands[0]]
        if len(tensors) != 1 or divisor or not is_float(element_type(tensors[0])):
            return value
        value = tensors[0]
    return value


def products(cone: Cone, partner: ir.Value, activation: Activation | None, narrow: bool) -> list[Product]:
    """The products with a multiple of `partner`, of `activation` or of any if there is none yet."""
    wide = cone.extended(partner, SCALES[:, None])
    copies = list(scaled_copies(wide, cone))
    found = []
    for value, sample in wide.deep_values(cone):
        at = linear_part(sample.at)
        if at is None:
            continue
        for derivative, factor, known in readings(at, sample, activation, narrow):
            operand = copy_of(copies, factor)
            if operand is not None:
                found.append(Product(value, operand, derivative, known))
    return found


def linear_part(at: Array) -> Array | None:
    """What multiplies the tensors that a cone was extended by, if the values `at` are linear in each."""
    if at.ndim < 2 or set(at.shape[:-1]) != {SCALES.size} or not np.all(np.isfinite(at)):
        return None
    one = at[(1,) * (at.ndim - 1)]
    expected = one
    for _ in range(at.ndim - 1):
        expected = SCALES.reshape(-1, *[1] * expected.ndim) * expected
    return one if np.allclose(at, expected, rtol=1e-9, atol=1e-12) else None


def readings(
    at: Array, sample: Sample, activation: Activation | None, narrow: bool
) -> Iterator[tuple[bool, float, Activation]]:
    """As what `at` may be read: whether as the derivative, times which factor, of which activation."""
    coarse = sample.coarse if narrow else 0.0
    for derivative in (False, True):
        if activation is None:
            known = (recognise_derivative if derivative else recognise)(at, coarse)
            if known is not None:
                yield derivative, 1.0, known
            continue
        reference = activation.derivative if derivative else activation.values
        largest = int(np.argmax(np.abs(reference)))
        factor = float(at[largest] / reference[largest])
        compare = equal_derivatives if derivative else equal
        if np.isfinite(factor) and factor != 0 and compare(at / factor, reference, coarse):
            yield derivative, factor, activation


def copy_of(copies: list[tuple[ir.Value, float]], factor: float) -> ir.Value | None:
    """Of the values that are a multiple of a tensor the one that is `factor` times it, the narrowest."""
    fitting = [value for value, times in copies if abs(times - factor) <= 0.01 * abs(factor)]
    floats = [value for value in fitting if is_float(element_type(value))]
    return min(floats, key=lambda value: float_width(element_type(value)), default=None)
