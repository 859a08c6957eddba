"""What looks like an activation and is none: which constant differs.

Every activation here is w = k x (1 + b S(u(x))) / 2 with S tanh (a logistic function is (1 + tanh(y / 2)) / 2) or erf,
and u a polynomial. Of a value that is read so, the constants are told from w, S and u at some points. One that differs
from the activation's in one of them is a near miss; one that differs in more is something else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.dialects import gelu, silu
from zenith_mlir.ir.facts import defining_op, users
from zenith_mlir.match.activation.cone import GRID, Cone
from zenith_mlir.match.activation.elementwise import Array

_NEAR = np.abs(GRID) <= 3
_POINTS = np.abs(GRID) <= 12
_ROOT, _CUBIC, _HALF = math.sqrt(2 / math.pi), 0.044715, math.sqrt(0.5)


@dataclass(frozen=True)
class NearMiss:
    """`reason` in a user's words: how what `op` computes differs from the activation `name`."""

    op: ir.Operation
    name: str
    reason: str


@dataclass(frozen=True)
class _Form:
    """k x (1 + b S(u)) / 2, u = shift + linear x + square x² + cubic x³; `curve` names S. Constants are known but for
    `rounding`.
    """

    curve: str
    rounding: float
    scale: float
    balance: float
    shift: float
    linear: float
    square: float
    cubic: float

    def near(self, found: float, expected: float) -> bool:
        return abs(found - expected) <= self.rounding * abs(expected)


def near_miss(cone: Cone, seed: ir.Operation) -> NearMiss | None:
    """Why a value that leaves the cone, made by `seed`, is no activation although it resembles one."""
    for value, sample in cone.deep_values():
        op = defining_op(value)
        leaves = any(not user.results or user.results[0] not in cone.samples for user in users(value))
        if op is None or sample.at.shape != GRID.shape or not leaves or not np.all(np.isfinite(sample.at)):
            continue
        for curve, argument in _curves(cone, seed, sample.at):
            form = _form(sample.at, curve, argument, max(1e-6, 0.55 * sample.coarse))
            differences = [] if form is None else list(_differences(form))
            if len(differences) == 1 and _FAR not in differences:
                return NearMiss(op, *differences[0])
    return None


def _curves(cone: Cone, seed: ir.Operation, w: Array) -> Iterator[tuple[str, Array]]:
    """S and u, for each way to read the function that `seed` is."""
    known = cone.samples.get(seed.operands[0])
    if known is None or known.at.shape != GRID.shape:
        return
    u = known.at
    if seed.name == "stablehlo.tanh":
        yield "tanh", u
    elif seed.name == "stablehlo.logistic":
        yield "tanh", u / 2
    elif seed.name == "stablehlo.exponential":
        yield from _of_exponential(u, w)
    else:
        yield "erf", -u if _is_complement(seed) else u


def _is_complement(seed: ir.Operation) -> bool:
    """Whether it is erfc(y) = 1 + erf(-y)."""
    names = [seed.name, *(str(seed.attributes[key]) for key in ("name", "call_target_name") if key in seed.attributes)]
    return any("erfc" in name for name in names)


def _of_exponential(u: Array, w: Array) -> Iterator[tuple[str, Array]]:
    """w = k x / (1 + r e^u) is k x (1 + tanh(-(u + log r) / 2)) / 2; so with e^-u."""
    points = _NEAR & (w != 0) & (np.abs(u) < 20)
    if points.sum() < 8:
        return
    for sign in (1, -1):
        columns = np.stack([np.ones(points.sum()), np.exp(sign * u[points])], axis=1)
        (one, r), exact = _fit(columns, GRID[points] / w[points])
        if exact and one > 0 and r > 0:
            yield "tanh", -(sign * u + math.log(r / one)) / 2


def _form(w: Array, curve: str, u: Array, rounding: float) -> _Form | None:
    x = GRID
    with np.errstate(all="ignore"):
        s = np.tanh(u) if curve == "tanh" else np.array([math.erf(value) for value in u])
    points = _POINTS & np.isfinite(s)
    (alpha, beta), exact = _fit(np.stack([x, x * s], axis=1)[points], w[points])
    near = _NEAR & np.isfinite(u)
    (shift, linear, square, cubic), polynomial = _fit(np.stack([x**0, x, x**2, x**3], axis=1)[near], u[near])
    if not exact or not polynomial or alpha == 0:
        return None
    return _Form(curve, rounding, alpha + beta, beta / alpha, shift, linear, square, cubic)


def _fit(columns: Array, values: Array) -> tuple[list[float], bool]:
    """The coefficients, those that are rounding errors as 0, and whether they give `values`."""
    found, *_ = np.linalg.lstsq(columns, values, rcond=None)
    found = np.where(np.abs(found) < 1e-9, 0.0, found)
    largest = max(1e-30, float(np.abs(values).max()))
    return [float(number) for number in found], bool(np.abs(columns @ found - values).max() <= 1e-9 * largest)


def _differences(form: _Form) -> Iterator[tuple[str, str]]:
    """What is unlike the nearest activation, each with its name; too much to be called near is more than one."""
    if form.curve == "erf":
        yield from _in_common(form, gelu.NAME)
        yield from _off(form, gelu.NAME, form.linear, _HALF, 3, "erf takes {found} x, GELU takes x / √2 = {expected} x")
        if form.square or form.cubic:
            yield _FAR
    elif form.square or form.cubic:
        yield from _in_common(form, gelu.NAME)
        yield from _off(
            form, gelu.NAME, form.linear, _ROOT, 1.5, "the factor of x is {found}, GELU has √(2/π) = {expected}"
        )
        if form.square and not form.cubic:
            yield gelu.NAME, "the argument of tanh has x² where GELU has x³"
        elif form.square:
            yield _FAR
        else:
            ratio = form.cubic / form.linear if form.linear else math.inf
            yield from _off(form, gelu.NAME, ratio, _CUBIC, 3, "the factor of x³ is {found}, GELU has {expected}")
    else:
        yield from _in_common(form, silu.NAME)
        if form.linear <= 0:
            yield _FAR


def _in_common(form: _Form, name: str) -> Iterator[tuple[str, str]]:
    if not form.near(form.balance, 1):
        yield name, f"{1 / form.balance:.6g} is added to {form.curve}, {_TITLES[name]} has 1"
        # One constant may be off: what is added to tanh, or its factor.
        of_one = form.scale / (1 + form.balance) if 0.5 < form.balance < 2 else 0.0
        if not (form.near(of_one, 0.5) or form.near(of_one * form.balance, 0.5)):
            yield _FAR
    elif not form.near(form.scale, 1):
        yield name, f"it is {form.scale:.6g} times {_TITLES[name]}"
    if form.shift:
        yield name, f"the argument of {form.curve} is shifted by {form.shift:.6g}"


_TITLES = {gelu.NAME: "GELU", silu.NAME: "SiLU"}
_FAR = ("", "it is another function")


def _off(form: _Form, name: str, found: float, expected: float, most: float, text: str) -> Iterator[tuple[str, str]]:
    """A constant that is not as `expected`; one that is off by more than the factor `most` has another meaning."""
    if not form.near(found, expected):
        yield name, text.format(found=f"{found:.6g}", expected=f"{expected:.6g}")
        if not expected / most <= found <= expected * most:
            yield _FAR
