"""Rewriting the modules JAX lowers, so that a mistake of ours never costs a user the program."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from typing import Any

import jax

from zenith_mlir.context import NUMERICS, Numerics, PassContext
from zenith_mlir.errors import PassError, ZenithError, did_you_mean
from zenith_mlir.instrument import Reproducer
from zenith_mlir.module import Module
from zenith_mlir.pipeline import Pipeline
from zenith_mlir.remarks import Remark
from zenith_mlir.target import Target

__all__ = ["Rewriting", "ZenithWarning", "strict_environment", "user_stacklevel"]


class ZenithWarning(UserWarning):
    """A program was compiled as it is because something of ours failed."""


class Rewriting:
    """A pipeline with what it needs to know, and the remarks of the programs it rewrote.

    `strict` and `shown`, the kind of remarks to print, are taken from the environment where they are None.

    Raises:
        PipelineError, TargetError, ZenithError: for arguments that mean nothing.
    """

    def __init__(
        self,
        pipeline: str | Pipeline | None,
        target: str | Target | None,
        numerics: Numerics,
        strict: bool | None,
        shown: str | None,
    ):
        self.pipeline = Pipeline.parse(pipeline or "")
        self.target = None if target is None else Target.parse(target)
        self.numerics: Numerics = _one_of("numerics", numerics, NUMERICS)
        self.strict = strict_environment() if strict is None else strict
        shown = os.environ.get("ZENITH_REMARKS", "") if shown is None else shown
        self.shown = _one_of("remarks", shown or "none", ("none", "passed", "missed", "all"))
        self.remarks: list[Remark] = []
        self._warned: set[tuple[str, str]] = set()

    @property
    def key(self) -> str:
        """All that decides what becomes of a program; empty if nothing does."""
        if not self.pipeline.stages:
            return ""
        return f"{self.pipeline} | {self.target} | {self.numerics} | strict={self.strict}"

    def __call__(self, lowered: Any, target: Target) -> Any:
        """The `ir.Module` that takes the place of `lowered`: a rewritten copy, or itself if a pass fails.

        `target` is the machine it is for, unless this was made for a certain one.

        Raises:
            PassError: if a pass fails and `strict`.
        """
        ctx = PassContext(self.target or target, self.numerics)
        module = Module(lowered).clone()
        try:
            self.pipeline.run(module, ctx)
        except Exception as error:
            failure = error if isinstance(error, PassError) else PassError(ctx.pass_name, str(error), error)
            self._report_failure(failure, lowered, ctx)
            if self.strict:
                raise failure from error
            return lowered
        self._report(ctx.remarks)
        return module.ir

    def _report(self, remarks: list[Remark]) -> None:
        self.remarks += remarks
        for remark in remarks:
            if self.shown in ("all", remark.kind):
                print(remark.text(), file=sys.stderr)

    def _report_failure(self, error: PassError, module: Any, ctx: PassContext) -> None:
        """A remark each time; a reproducer and a warning once for a pass and a program."""
        reason = f"{error}; the program is compiled as it is"
        self._report([Remark("failure", error.pass_name, reason=reason)])
        program = module.operation.attributes["sym_name"].value
        if (error.pass_name, program) in self._warned:
            return
        self._warned.add((error.pass_name, program))
        reproducer = Reproducer(str(self.pipeline), str(ctx.target), ctx.numerics)
        where = _write_reproducer(reproducer, Module(module))
        error.add_note(where)
        if not self.strict:
            message = f"{error}\nThe program {program} is compiled as it is. {where}"
            warnings.warn(message, ZenithWarning, stacklevel=user_stacklevel())


def strict_environment() -> bool:
    """Whether ZENITH_STRICT asks for errors instead of warnings."""
    return os.environ.get("ZENITH_STRICT", "").strip().lower() not in ("", "0", "false", "no", "off")


def user_stacklevel() -> int:
    """For `warnings.warn` in the caller: the level of the first frame outside of JAX and of this package."""
    inside = tuple(os.path.dirname(os.path.abspath(path)) + os.sep for path in (jax.__file__, __file__))
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    return level


def _write_reproducer(reproducer: Reproducer, module: Module) -> str:
    """Write it to ZENITH_REPRODUCER_DIR, or where temporary files go; the sentence that says where."""
    directory = os.environ.get("ZENITH_REPRODUCER_DIR") or tempfile.gettempdir()
    try:
        os.makedirs(directory, exist_ok=True)
        handle, path = tempfile.mkstemp(prefix="zenith-", suffix=".mlir", dir=directory)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(reproducer.write(module))
    except OSError as error:
        return f"No reproducer could be written to {directory}: {error.strerror}; set ZENITH_REPRODUCER_DIR."
    return f"{path} reproduces it: zenith-opt --run-reproducer {path}"


def _one_of(what: str, value: str, known: tuple[str, ...]) -> Any:
    if value not in known:
        raise ZenithError(f"{what} is one of {', '.join(known)}, not {value!r}{did_you_mean(value, known)}")
    return value
