"""certify_pair: a rewritten program against the original one, judged by the original in float64."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from zenith_mlir.canonical.splats import numpy_dtype
from zenith_mlir.certify.certificate import Case, Certificate
from zenith_mlir.certify.judge import Neighbour, is_float_like, judge_result
from zenith_mlir.context import Numerics
from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.executable import Executable, compile_module
from zenith_mlir.ir.facts import walk, walk_named
from zenith_mlir.ir.float64 import to_float64
from zenith_mlir.ir.symbols import functions
from zenith_mlir.target import Target

if TYPE_CHECKING:
    from zenith_mlir.module import Module

__all__ = ["Trio", "certify_pair", "moved", "narrowest_ulp", "quick_options", "run", "widened"]

NEIGHBOURS = 3

Array = NDArray[Any]


def certify_pair(
    original: Module,
    rewritten: Module,
    *,
    inputs: Iterable[tuple[str, Sequence[Array]]],
    target: Target | None = None,
    numerics: Numerics = "sound",
    op: str = "module",
) -> Certificate:
    """Run both programs and the judge on every input set; each result of each set is a case.

    Args:
      original, rewritten: of the same signature.
      inputs: pairs of a name and one array per argument of `main`, of the declared shapes and dtypes.
      target: where both programs run (None: JAX's default platform). The judge runs on the CPU.
      numerics: the policy of `Certificate.accepted`.
      op: what the certificate is called.

    Raises:
      ZenithError: the signatures differ, the arrays do not fit, or the original has no float64 form.
    """
    trio = Trio.compile(original, rewritten, target)
    cases = [case for name, arrays in inputs for case in trio.judge(name, arrays)]
    return Certificate(op, tuple(cases), numerics)


@dataclass(frozen=True)
class Trio:
    """The original, the rewritten and the judging program, compiled."""

    original: Executable
    rewritten: Executable
    float64: Executable
    ulp: float

    @classmethod
    def compile(cls, original: Module, rewritten: Module, target: Target | None = None) -> Trio:
        _check_signatures(original, rewritten)
        return cls(
            compile_module(original, target),
            compile_module(rewritten, target),
            compile_module(to_float64(original), Target.parse("cpu"), compiler_options=quick_options(original)),
            narrowest_ulp(original),
        )

    def judge(self, name: str, arrays: Sequence[Array]) -> list[Case]:
        """One case for each result."""
        generator = np.random.default_rng(0)
        tried = [self._neighbour([moved(x, self.ulp, generator) for x in arrays]) for _ in range(NEIGHBOURS)]
        results = zip(
            run(self.original, arrays),
            run(self.rewritten, arrays),
            run(self.float64, map(widened, arrays)),
            *tried,
            strict=True,
        )
        return [judge_result(name, i, o, r, j, near) for i, (o, r, j, *near) in enumerate(results)]

    def _neighbour(self, arrays: Sequence[Array]) -> list[Neighbour]:
        pairs = zip(run(self.original, arrays), run(self.float64, map(widened, arrays)), strict=True)
        return [Neighbour(original, judge) for original, judge in pairs]


def quick_options(module: Module) -> dict[str, int]:
    """Compiler options for few runs: without LLVM's optimizations the program is ready in half the time.

    Not where it convolves: XLA:CPU has no library for convolutions of f64, and its own loops need the
    optimizations.
    """
    with module.context:
        convolves = bool(walk_named(module.operation, "stablehlo.convolution"))
    return {} if convolves else {"xla_backend_optimization_level": 0}


def run(executable: Executable, arrays: Iterable[Array]) -> list[Array]:
    """The results as NumPy arrays."""
    return [np.asarray(result) for result in executable(*arrays)]


def widened(array: Array) -> Array:
    """The same numbers in float64 or complex128; integers and booleans as they are."""
    array = np.asarray(array)
    if not is_float_like(array.dtype):
        return array
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def moved(array: Array, ulp: float, generator: np.random.Generator) -> Array:
    """Every float moved by half an `ulp` up or down, as far as its dtype can tell; 0, inf and NaN stay."""
    if not is_float_like(array.dtype):
        return array
    factor = 1 + ulp / 2 * generator.choice([-1.0, 1.0], array.shape)
    with np.errstate(over="ignore"):
        return np.asarray(widened(array) * factor).astype(array.dtype)


def narrowest_ulp(module: Module) -> float:
    """The ulp of 1 in the narrowest float type of the program; 0 without floats."""
    with module.context:
        types = {value.type for op in walk(module.operation) for value in (*op.operands, *op.results)}
        dtypes = {numpy_dtype(t.element_type) for t in types if isinstance(t, ir.RankedTensorType)}
    return max((float(ml_dtypes.finfo(d).eps) for d in dtypes if d is not None and is_float_like(d)), default=0.0)


def _check_signatures(original: Module, rewritten: Module) -> None:
    expected, got = (str(functions(m.operation)["main"].attributes["function_type"]) for m in (original, rewritten))
    if expected != got:
        raise ZenithError(
            f"a rewrite keeps the signature of main: the original has {expected}, the rewritten program {got}"
        )
