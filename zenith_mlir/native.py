"""Passes that come with jaxlib, by the names MLIR and StableHLO give them."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from zenith_mlir.errors import OptionError, PipelineError

__all__ = ["NATIVE_PASSES", "NativePass", "defaults", "exists", "make", "register_native_passes"]

# What is worth offering; any other pass that jaxlib knows runs too.
NATIVE_PASSES: Mapping[str, str] = {
    "canonicalize": "fold and simplify by every operation's own patterns",
    "chlo-legalize-to-stablehlo": "expand CHLO operations into StableHLO",
    "cse": "merge operations that compute the same",
    "loop-invariant-code-motion": "move what does not change out of loops",
    "print-op-stats": "print how many operations of each kind there are",
    "remove-dead-values": "remove values, arguments and results that nothing uses",
    "sccp": "propagate constants through branches and calls",
    "sdy-import-pipeline": "bring a module into the form Shardy's propagation takes",
    "sdy-propagation-pipeline": "propagate shardings through the module",
    "shape-legalize-to-stablehlo": "expand shape operations into StableHLO",
    "stablehlo-canonicalize-dynamism": "replace dynamic operations whose shapes are known by static ones",
    "stablehlo-compatibility-expander": "expand operations that an older StableHLO version lacks",
    "stablehlo-complex-math-expander": "expand mathematics on complex numbers into real operations",
    "stablehlo-convert-to-signless": "turn signed and unsigned integers into signless ones",
    "stablehlo-legalize-composite-to-call": "replace composites by calls of their decompositions",
    "stablehlo-legalize-to-linalg": "lower StableHLO to Linalg",
    "stablehlo-legalize-to-vhlo": "turn StableHLO into its versioned form",
    "stablehlo-refine-arguments": "give the arguments of main the types listed",
    "stablehlo-refine-shapes": "infer shapes through the module",
    "stablehlo-wrap-in-composite": "wrap operations in composites",
    "strip-debuginfo": "remove source locations",
    "symbol-dce": "remove private functions that nothing calls",
    "topological-sort": "sort operations of a block so that each follows what it uses",
    "vhlo-legalize-to-stablehlo": "turn the versioned form back into StableHLO",
}


@dataclass(frozen=True)
class NativePass:
    """A native pass, or a nest such as `func.func(cse)`, by its text."""

    text: str

    @property
    def name(self) -> str:
        """The text without options; of a nest around one pass, that pass."""
        bare = re.sub(r"\{[^{}]*\}", "", self.text)
        alone = re.fullmatch(r"[\w.]+\(([\w-]+)\)", bare)
        return alone[1] if alone else bare

    def __str__(self) -> str:
        return self.text


def register_native_passes() -> None:
    """Make the native passes known to jaxlib's pass manager; cheap after the first time."""
    from zenith_mlir.ir.context import register_native_passes

    register_native_passes()


@functools.cache
def exists(name: str) -> bool:
    """Whether jaxlib has a pass or pipeline of that name."""
    return name in NATIVE_PASSES or _parse_error(name) is None or _parse_error(f"func.func({name})") is None


@functools.cache
def make(name: str, text: str) -> NativePass:
    """A native pass, checked; one that runs on functions only is nested in `func.func`.

    Raises:
        OptionError: for options that the pass does not accept; the message lists those it has.
        PipelineError: for anything else that jaxlib's parser refuses.
    """
    error = _parse_error(text)
    if error is None:
        return NativePass(text)
    if "restricted to 'func.func'" in error:
        return make(name, f"func.func({text})")
    if "{" in text:
        raise OptionError(f"{name}: {error}; valid options and their defaults: {defaults(name) or 'none'}")
    raise PipelineError(f"{text}: {error}")


def _parse_error(text: str) -> str | None:
    """What jaxlib's parser has against a pipeline element, in one line, or None."""
    from jaxlib.mlir.passmanager import PassManager

    from zenith_mlir.ir.native_stderr import captured_stderr

    with captured_stderr() as printed:  # LLVM's option parser reports a bad value there and nowhere else
        try:
            PassManager.parse(f"builtin.module({text})", _scratch_context())
        except ValueError as error:
            message = str(error)
        else:
            return None
    lines = (line.removeprefix("<Pass-Options-Parser>").strip(" :^!") for line in (*printed, *message.splitlines()))
    return "; ".join(filter(None, lines))


def defaults(name: str) -> str:
    """The options of a native pass with their defaults, `max-iterations=10 top-down=true`; empty if it has
    none.
    """
    from jaxlib.mlir.passmanager import PassManager

    printed = str(PassManager.parse(f"builtin.module({make(name, name)})", _scratch_context()))
    match = re.search(r"\{(.*)\}", printed)
    return " ".join(match[1].split()) if match else ""


@functools.cache
def _scratch_context():  # type: ignore[no-untyped-def]  # ir.Context, not imported before it is needed
    from zenith_mlir.ir.context import make_context

    return make_context()
