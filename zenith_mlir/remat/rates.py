"""Seconds that an equation takes, from what it computes and moves and from what a machine does in a second."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zenith_mlir.remat.flat_jaxpr import Equation, elements, flatten, nbytes

__all__ = ["FUNCTIONS", "RATES", "Rates", "flops", "rates_here"]


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second.

    `products` are FLOPs of matrix products and convolutions with operands of 32 bits or more, `narrow_products` of
    fewer; `bandwidth` bytes read and written; `functions` elements of exp, tanh and the like; `host_bandwidth` bytes
    sent to host memory or brought back, 0 where there is no other memory.
    """

    products: float
    narrow_products: float
    bandwidth: float
    functions: float
    host_bandwidth: float = 0.0

    def seconds(self, equation: Equation) -> float:
        """Seconds that `equation` takes by itself: its FLOPs or its traffic, whichever takes longer."""
        if equation.name in _BODIES:
            return _BODIES[equation.name](self, equation)
        moved = sum(map(nbytes, (*equation.operand_types, *equation.result_types))) / self.bandwidth
        if equation.name in _PRODUCTS:
            narrow = all(t.dtype.itemsize < 4 for t in equation.operand_types)
            return max(moved, flops(equation) / (self.narrow_products if narrow else self.products))
        if equation.name in FUNCTIONS:
            return max(moved, sum(map(elements, equation.result_types)) / self.functions)
        return moved

    def offload_seconds(self, size: int) -> float:
        """Seconds to send `size` bytes to the host and to bring them back."""
        return 2 * size / self.host_bandwidth if self.host_bandwidth else math.inf


# Orders of magnitude: a few CPU cores with AVX2, an H100 with its host on PCIe 5. Ratios decide what is kept.
RATES = {
    "cpu": Rates(products=1e11, narrow_products=1e11, bandwidth=1.5e10, functions=1e9),
    "gpu": Rates(products=2e14, narrow_products=5e14, bandwidth=2.5e12, functions=1e12, host_bandwidth=5e10),
}


def rates_here() -> Rates:
    """The rates of the kind of machine that JAX uses by default."""
    import jax

    return RATES["cpu" if jax.default_backend() == "cpu" else "gpu"]


def flops(equation: Equation) -> float:
    """FLOPs of a product or a convolution, two for a multiplication and an addition; of others one for a result."""
    return _PRODUCTS.get(equation.name, _one_each)(equation)


def _one_each(equation: Equation) -> float:
    return float(sum(map(elements, equation.result_types)))


def _dot_general(equation: Equation) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs = equation.operand_types[0].shape
    return 2.0 * elements(equation.result_types[0]) * math.prod(int(lhs[d]) for d in contracted)


def _convolution(equation: Equation) -> float:
    """Each output sums over a window and the input features of its group: what rhs holds for one output feature."""
    rhs = equation.operand_types[1].shape
    outputs = rhs[equation.params["dimension_numbers"].rhs_spec[0]]
    # What a strided convolution is transposed to has zeros between its inputs, which libraries skip.
    dilation = math.prod(int(d) for d in equation.params["lhs_dilation"])
    return 2.0 * elements(equation.result_types[0]) * elements(equation.operand_types[1]) / int(outputs) / dilation


_PRODUCTS: dict[str, Callable[[Equation], float]] = {"dot_general": _dot_general, "conv_general_dilated": _convolution}
# Elementwise and not cheap.
FUNCTIONS = frozenset({
    "exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "sin", "cos", "tan", "asin", "acos", "atan",
    "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "erf", "erfc", "erf_inv", "pow", "cbrt", "lgamma",
    "digamma", "random_bits", "threefry2x32", "rng_bit_generator",
})  # fmt: skip


def _inside(rates: Rates, jaxpr: Any) -> float:
    return sum(rates.seconds(equation) for equation in flatten(jaxpr).equations)


def _scan(rates: Rates, equation: Equation) -> float:
    return float(equation.params["length"]) * _inside(rates, equation.params["jaxpr"])


def _while(rates: Rates, equation: Equation) -> float:
    """One trip: how many there are is not known."""
    return _inside(rates, equation.params["cond_jaxpr"]) + _inside(rates, equation.params["body_jaxpr"])


def _cond(rates: Rates, equation: Equation) -> float:
    return max(_inside(rates, branch) for branch in equation.params["branches"])


_BODIES: dict[str, Callable[[Rates, Equation], float]] = {"scan": _scan, "while": _while, "cond": _cond}
