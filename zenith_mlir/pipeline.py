"""Textual pipelines: our passes, named pipelines and native MLIR passes side by side.

::

    inline-calls,simplify,raise-attention,lower-kernels{min-seq=64},canonicalize,func.func(cse)

is what `Pipeline.parse` reads, also wrapped as `builtin.module(...)`. Named pipelines are replaced by their
passes, so that `str(pipeline)` says exactly what runs; it parses back and serves as a cache key.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from zenith_mlir import native, registry
from zenith_mlir.errors import PassError, PipelineError, ZenithError, did_you_mean
from zenith_mlir.native import NativePass
from zenith_mlir.options import make_pass
from zenith_mlir.registry import Pass

if TYPE_CHECKING:
    from zenith_mlir.context import PassContext
    from zenith_mlir.instrument import Instrument
    from zenith_mlir.module import Module

__all__ = ["PIPELINES", "Pipeline"]

PIPELINES: Mapping[str, str] = {
    "prepare": "inline-calls,simplify",
    "raise": "prepare,raise-attention,raise-layernorm,raise-activation,raise-rotary,raise-cross-entropy,raise-softmax",
    "default": "raise,raise-matmul,lower-kernels",
    "onnx": "prepare,raise-attention,raise-layernorm{gradients=false},raise-activation,raise-rotary,"
    "raise-cross-entropy,raise-softmax,fold-batchnorm",
    "default-bf16": "raise,cast-precision,raise-matmul,lower-kernels",
}


@dataclass(frozen=True)
class Pipeline:
    """Passes in the order they run."""

    stages: tuple[Pass | NativePass, ...]

    @classmethod
    def parse(cls, text: str | Pipeline) -> Pipeline:
        """A pipeline from its text.

        Raises:
            PipelineError: for text that does not parse or a name that is no pass, naming those spelled alike.
            OptionError: for an option a pass does not have or a value it does not accept.
        """
        if isinstance(text, Pipeline):
            return text
        elements = _Parser(text).pipeline()
        if len(elements) == 1 and elements[0].name == "builtin.module" and elements[0].nested is not None:
            elements = elements[0].nested
        return cls(tuple(stage for element in elements for stage in _resolve(element, ())))

    def run(self, module: Module, ctx: PassContext, instrument: Instrument | None = None) -> None:
        """Run every pass on `module`, in place.

        Raises:
            PassError: when a pass, or the verifier after it, fails; the module is then in an unspecified
            state.
        """
        from zenith_mlir.instrument import Instrument

        instrument = instrument or Instrument()
        native.register_native_passes()
        with module.context, instrument.pipeline(self, module, ctx):
            for index, stage in enumerate(self.stages):
                ctx.pass_name = stage.name
                with instrument.stage(self, index, module, ctx):
                    _run_stage(stage, module, ctx, verify=instrument.verify_each)

    def __str__(self) -> str:
        return ",".join(map(str, self.stages))


def _run_stage(stage: Pass | NativePass, module: Module, ctx: PassContext, verify: bool) -> None:
    from jaxlib.mlir import ir
    from jaxlib.mlir.passmanager import PassManager

    from zenith_mlir.ir.diagnostics import describe

    manager = PassManager("builtin.module", module.context)
    manager.enable_verifier(verify)
    if isinstance(stage, NativePass):
        manager.add(str(stage))
    else:
        manager.add(lambda op, handle: stage.run(module, ctx), name=type(stage).__name__, argument=stage.name)
    try:
        manager.run(module.operation)
    except ir.MLIRError as error:
        raise PassError(stage.name, describe(error)) from error
    except ZenithError as error:
        raise PassError(stage.name, str(error), error) from error
    except Exception as error:
        raise PassError(stage.name, f"{type(error).__name__}: {error} ({_innermost_line(error)})", error) from error


def _innermost_line(error: Exception) -> str:
    frame = error.__traceback__
    assert frame is not None
    while frame.tb_next:
        frame = frame.tb_next
    return f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"


@dataclass(frozen=True)
class _Element:
    """`name{key=value}(nested)` as written."""

    name: str
    options: dict[str, str]
    nested: list[_Element] | None

    def __str__(self) -> str:
        options = " ".join(f"{key}={value}" for key, value in self.options.items())
        nested = "" if self.nested is None else f"({','.join(map(str, self.nested))})"
        return self.name + nested + (f"{{{options}}}" if options else "")


def _resolve(element: _Element, within: tuple[str, ...]) -> Iterator[Pass | NativePass]:
    """The passes an element stands for; `within` are the named pipelines being expanded."""
    name = element.name
    if element.nested is not None:
        _check_nested(element)
        yield native.make(name, str(element))
    elif name in PIPELINES:
        if element.options:
            raise PipelineError(f"the pipeline {name} takes no options; write its passes out: {PIPELINES[name]}")
        if name in within:
            raise PipelineError(f"the pipeline {name} contains itself: {' > '.join([*within, name])}")
        for inner in _Parser(PIPELINES[name]).pipeline():
            yield from _resolve(inner, (*within, name))
    elif name not in native.NATIVE_PASSES and registry.is_pass(name):
        yield make_pass(registry.find(name), element.options)
    elif native.exists(name):
        yield native.make(name, str(element))
    else:
        known = [*registry.names(), *PIPELINES, *native.NATIVE_PASSES]
        raise PipelineError(f"unknown pass {name}{did_you_mean(name, known)}; --list-passes shows them all")


def _check_nested(element: _Element) -> None:
    """Our passes see the whole module; only native ones can be nested in an operation."""
    for inner in element.nested or ():
        if inner.nested is not None:
            _check_nested(inner)
        elif native.exists(inner.name):
            continue
        elif inner.name in PIPELINES or registry.is_pass(inner.name):
            raise PipelineError(f"{inner.name} runs on a module; write it outside of {element.name}(...)")
        else:
            raise PipelineError(f"unknown pass {inner.name}{did_you_mean(inner.name, native.NATIVE_PASSES)}")


class _Parser:
    """Recursive descent over `pipeline := [element {"," element}]`, `element := name ["(" pipeline ")"] ["{"
    options "}"]`.
    """

    NAME = re.compile(r"\s*([A-Za-z_][\w.$-]*)\s*")
    KEY = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*=\s*")
    BARE_VALUE = re.compile(r"[^\s{}()\"]+")
    QUOTED_VALUE = re.compile(r'"((?:[^"\\]|\\.)*)"|\'([^\']*)\'')

    def __init__(self, text: str):
        self.text = text
        self.at = 0

    def pipeline(self) -> list[_Element]:
        """The whole text."""
        elements = self._elements()
        if self.at < len(self.text):
            self._fail("',' or the end")
        return elements

    def _elements(self) -> list[_Element]:
        self._take("")
        if self.at == len(self.text) or self.text[self.at] == ")":
            return []
        elements = [self._element()]
        while self._take(","):
            elements.append(self._element())
        return elements

    def _element(self) -> _Element:
        match = self.NAME.match(self.text, self.at) or self._fail("the name of a pass")
        self.at = match.end()
        options = self._options() if self._take("{") else {}
        nested = None
        if self._take("("):
            nested = self._elements()
            if not self._take(")"):
                self._fail("')'")
        if not options and self._take("{"):
            options = self._options()
        return _Element(match[1], options, nested)

    def _options(self) -> dict[str, str]:
        options: dict[str, str] = {}
        while not self._take("}"):
            match = self.KEY.match(self.text, self.at) or self._fail("option=value or '}'")
            if match[1] in options:
                raise PipelineError(f"the option {match[1]} is given twice in {self.text!r}")
            self.at = match.end()
            options[match[1]] = self._value()
        return options

    def _value(self) -> str:
        if match := self.QUOTED_VALUE.match(self.text, self.at):
            self.at = match.end()
            return re.sub(r"\\(.)", r"\1", match[1]) if match[1] is not None else match[2]
        if self.text.startswith("{", self.at):
            return self._braces()
        match = self.BARE_VALUE.match(self.text, self.at) or self._fail("a value")
        self.at = match.end()
        return match[0]

    def _braces(self) -> str:
        """A value that holds options itself, kept as it is written."""
        start, depth = self.at, 0
        while self.at < len(self.text):
            depth += {"{": 1, "}": -1}.get(self.text[self.at], 0)
            self.at += 1
            if depth == 0:
                return self.text[start : self.at]
        return self._fail("'}'")

    def _take(self, token: str) -> bool:
        """Skip blanks, then `token` if it comes next."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        found = bool(token) and self.text.startswith(token, self.at)
        self.at += len(token) * found
        return found

    def _fail(self, expected: str) -> NoReturn:
        rest = self.text[self.at : self.at + 20]
        where = f"{rest!r} came" if rest else "it ends"
        raise PipelineError(
            f"cannot read the pipeline {self.text!r}: at column {self.at + 1} {expected} is expected, and {where}"
        )


class _CallableModule(types.ModuleType):
    """Lets `zenith.pipeline` name both this module and the context manager of the public interface."""

    def __call__(self, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        from zenith_mlir import hook

        return hook.pipeline(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
