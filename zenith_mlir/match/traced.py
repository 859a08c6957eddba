"""Traced patterns: a pattern is a plain JAX function::

    @traced(x="*b n", scale="n", eps="")
    def rms_norm(x, scale, eps):
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * scale

    m.match(value, rms_norm)    # captures x, scale, eps; numbers["eps"]; sizes {"b": (4, 16), "n": 512}

The function is traced and brought into canonical form as a program is, so that what matches is what it would
have become itself. It matches for all sizes of its dimensions, `*b` any number of them: a trace for each rank
and element type that is met, and two of each with different primes to tell sizes from literals. What depends
on the sizes in another way is refused when the pattern is made.

What does not match: sums and products in another association, a dimension of size one (its broadcasts are
gone), an argument that is a constant or a broadcast itself where the canonical form merges it with the
pattern's own operations.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op, has_static_shape, shape
from zenith_mlir.match.search import Matcher, PatternError, State
from zenith_mlir.match.sizes import ArgumentType, tracing_sizes
from zenith_mlir.match.template import Local, Template, read_template
from zenith_mlir.module import Module, trace

__all__ = ["Traced", "traced"]

DTYPES = {
    "i1": np.bool_, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "ui8": np.uint8, "ui16": np.uint16, "ui32": np.uint32, "ui64": np.uint64,
    "bf16": ml_dtypes.bfloat16, "f16": np.float16, "f32": np.float32, "f64": np.float64,
}  # fmt: skip
FLOATS = ("f32", "bf16", "f16", "f64")


def traced(function: Callable[..., Any] | None = None, /, **dims: str) -> Any:
    """A pattern from a JAX function, called as `traced(fn, x="*b n")` or as the decorator `@traced(x="*b
    n")`.

    Args:
      function: takes arrays under the names that `dims` gives, returns one array; pure, without Python
        branches on sizes.
      dims: for each parameter its dimensions: names, numbers, and one `*name` for any number of dimensions.
        `"b n"` is of any float type, one for all parameters, which is the type of the result;
        `"bf16[b n]"` is of that type. A parameter `""` is a scalar and also matches a constant, which is then
        in `Match.numbers`.

    Raises:
      PatternError: for dimensions that cannot be read, a function that cannot be traced, and one whose
        program says nothing for other sizes: loops, constants that are arrays, sizes like n // 2, `*b` that
        is not in the result.
    """
    if function is None:
        return functools.partial(traced, **dims)
    return Traced(function, tuple((name, ArgumentType.parse(text)) for name, text in dims.items()))


@dataclass(frozen=True)
class Traced(Matcher):
    """A JAX function as a matcher; made by `traced`."""

    function: Callable[..., Any]
    arguments: tuple[tuple[str, ArgumentType], ...]
    _templates: dict[tuple[str, int], Template | PatternError] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        _check_parameters(self.name, self.function, dict(self.arguments))
        first = self._template("f32", 1)
        if isinstance(first, PatternError):
            raise first
        if self._is_generic and first.dtype != "f32":
            raise PatternError(
                f"{self.name} gives {first.dtype} for f32, so its element type does not say that of the "
                'arguments; write it down for each: "f32[b n]"'
            )
        if self._star and self._result_rank(2) != first.rank + 1:
            raise PatternError(
                f"*{self._star} is not in the result of {self.name}, so its rank cannot be told; name the dimensions"
            )

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", "the pattern").replace("<lambda>", "the lambda")

    @property
    def size(self) -> int:
        return self._first.size

    @property
    def roots(self) -> frozenset[str]:
        # In a narrower type the same function may end by converting back to it.
        widened = frozenset({"stablehlo.convert"}) if self._is_generic else frozenset()
        return (self._first.root.roots or frozenset()) | widened

    def search(self, value: ir.Value, state: State) -> Iterator[State]:
        template = self._template_for(value, state)
        if template is None:
            return
        for found in template.root.search(value, replace(state, local=Local())):
            reason = template.contradiction(found.local)
            if reason is None:
                sizes = {**state.sizes, **template.sizes(found.local)}
                yield replace(found, local=state.local, sizes=sizes)
            else:
                found.miss(reason, defining_op(value))

    def _template_for(self, value: ir.Value, state: State) -> Template | None:
        """The trace for the element type and rank of `value`."""
        op = defining_op(value)
        if op is None or op.name not in self.roots or not has_static_shape(value):
            state.mismatch(value, self)
            return None
        dtype = str(ir.RankedTensorType(value.type).element_type) if self._is_generic else "f32"
        rank = len(shape(value)) - self._first.rank + 1 if self._star else 1
        if rank < 0 or dtype not in FLOATS:
            state.miss(f"{self.name} gives no {value.type}", op)
            return None
        template = self._template(dtype, rank)
        if isinstance(template, PatternError):
            state.miss(str(template), op)
            return None
        return template

    @property
    def _first(self) -> Template:
        first = self._template("f32", 1)
        assert isinstance(first, Template)
        return first

    @property
    def _is_generic(self) -> bool:
        return any(argument.dtype is None for _, argument in self.arguments)

    @property
    def _star(self) -> str:
        stars = {name[1:] for _, argument in self.arguments for name in argument.names if name.startswith("*")}
        if len(stars) > 1:
            raise PatternError(
                f"{self.name} has several dimensions with a star, {', '.join(sorted(stars))}; name all but one of them"
            )
        return stars.pop() if stars else ""

    def _template(self, dtype: str, rank: int) -> Template | PatternError:
        """The trace for that element type and that many dimensions of `*b`, or why there is none."""
        key = (dtype, rank)
        if key not in self._templates:
            try:
                self._templates[key] = self._trace(*key)
            except PatternError as error:
                self._templates[key] = error
        return self._templates[key]

    def _trace(self, dtype: str, rank: int) -> Template:
        arguments = self._expanded(dtype, rank)
        names = sorted(set().union(*(argument.names for argument in arguments.values())))
        sizes = tracing_sizes(names)
        a, b = (_canonical(self, {name: _abstract(arg, known) for name, arg in arguments.items()}) for known in sizes)
        return read_template(self.name, arguments, (a, b), sizes, self._star)

    def _expanded(self, dtype: str, rank: int) -> dict[str, ArgumentType]:
        typed = ((name, replace(argument, dtype=argument.dtype or dtype)) for name, argument in self.arguments)
        return {name: argument.expanded(rank) for name, argument in typed}

    def _result_rank(self, rank: int) -> int:
        import jax

        arguments = self._expanded("f32", rank)
        names = sorted(set().union(*(argument.names for argument in arguments.values())))
        specs = {name: _abstract(argument, tracing_sizes(names)[0]) for name, argument in arguments.items()}
        return len(jax.eval_shape(self.function, **specs).shape)

    def __str__(self) -> str:
        return self.name


def _check_parameters(name: str, function: Callable[..., Any], dims: Mapping[str, ArgumentType]) -> None:
    parameters = list(inspect.signature(function).parameters)
    if set(parameters) != set(dims) or not dims:
        raise PatternError(
            f"{name} takes {', '.join(parameters) or 'nothing'}, "
            f"but dimensions are given for {', '.join(dims) or 'nothing'}; "
            'give each parameter its own: x="*b n"'
        )
    for parameter, argument in dims.items():
        if argument.dtype is not None and argument.dtype not in DTYPES:
            raise PatternError(
                f"{parameter} of {name} has the element type {argument.dtype!r}; known are {', '.join(DTYPES)}"
            )


def _abstract(argument: ArgumentType, sizes: Mapping[str, int]) -> Any:
    import jax

    assert argument.dtype is not None
    return jax.ShapeDtypeStruct(argument.shape(sizes), DTYPES[argument.dtype])


def _canonical(pattern: Traced, specs: Mapping[str, Any]) -> Module:
    """What the pattern's function becomes for arguments like `specs`."""
    import jax

    from zenith_mlir import hook

    def positional(*arrays: Any) -> Any:
        return pattern.function(**dict(zip(specs, arrays, strict=True)))

    try:
        # Unused arguments are kept to be complained about; a pipeline bound around this is none of the
        # pattern's business.
        with hook.pipeline(None):
            module = trace(jax.jit(positional, keep_unused=True), *specs.values())
    except Exception as error:
        shapes = ", ".join(f"{name}: {spec.dtype}{list(spec.shape)}" for name, spec in specs.items())
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PatternError(f"{pattern.name} cannot be traced with {shapes}: {reason}") from error
    return module.run("inline-calls,simplify", target="none")
