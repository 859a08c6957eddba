"""Puts the passes under plain jax.jit. The only file outside of `zenith_mlir/ir` that touches private JAX.

JAX lowers every program, for `jit`, `.lower()` and `jax.export` alike, by one function,
`lower_jaxpr_to_module`. It is wrapped here, and its result rewritten by the pipeline bound at that moment::

    with zenith.pipeline("default") as p:     # in this thread
        jax.jit(f)(x)
    p.remarks

    f = zenith.jit(f)                         # for one function
    zenith.set_pipeline("default")            # for the process; or ZENITH_PIPELINE=default in the environment

What is bound lives in a `jax.make_user_context`, which is part of the keys of JAX's caches: one function
called outside, inside and outside again is lowered once for each.

Lowered modules that need options of XLA:CPU (`zenith_mlir.ir.compiler_options`) get them where JAX compiles,
`compile_or_get_cached`, before the key of the persistent cache is made.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import os
import threading
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.source_info_util import register_exclusion

from zenith_mlir.context import Numerics
from zenith_mlir.errors import ZenithError
from zenith_mlir.ir import compiler_options
from zenith_mlir.pipeline import Pipeline
from zenith_mlir.remarks import Remark
from zenith_mlir.remat.policy import keeps_barriers
from zenith_mlir.rewriting import Rewriting, ZenithWarning, strict_environment, user_stacklevel
from zenith_mlir.target import Target

__all__ = ["UnsupportedJaxError", "ZenithWarning", "install", "jit", "pipeline", "set_pipeline", "uninstall"]

SUPPORTED_JAX = ">=0.10,<0.13"

# Frames of this file are not the user's: JAX leaves them out of source locations.
register_exclusion(__file__)


class UnsupportedJaxError(ZenithError):
    """This JAX lowers programs in a way that this zenith_mlir does not know."""


class _Bound(str):
    """What JAX's caches compare, text that decides what becomes of a program, with who is to do it."""

    rewriting: Rewriting

    @classmethod
    def of(cls, rewriting: Rewriting) -> _Bound | None:
        if not rewriting.key:
            return None
        bound = cls(rewriting.key)
        bound.rewriting = rewriting
        return bound


# A _Bound; None leaves programs as they are.
_bound = jax.make_user_context(default_value=None)


# ---- Binding a pipeline ----


class pipeline:
    """A context manager under which every program lowered in this thread is rewritten by `text`.

    `text` is a pipeline ("default", "inline-calls,simplify"); None or "" switches rewriting off. `target`
    describes the machine ("cpu:avx2"), by default the platform of each lowering; `jax.export`, and lowering
    for several platforms, use the target none by default: what they make runs everywhere, and gets its
    kernels where it is called under a pipeline. With another target give `jax.export` the
    `DisabledSafetyCheck.custom_call("zenith_attention")` and the like that it asks for.

    `numerics` is "exact", "sound" or "fast". With `strict` a failing pass raises `PassError`; otherwise the
    program is compiled as it is, with one `ZenithWarning`. `remarks` ("passed", "missed", "all", "none")
    prints these to standard error. Both default to the environment: ZENITH_STRICT=1, ZENITH_REMARKS=missed.

    One object can be entered again, nested and by several threads. Other threads do not see it unless they
    enter it too.

    Raises:
        PipelineError, TargetError, ZenithError: at once, for arguments that mean nothing.
        UnsupportedJaxError: when entered, if this JAX lowers programs otherwise.
    """

    def __init__(
        self,
        text: str | Pipeline | None,
        *,
        target: str | Target | None = None,
        numerics: Numerics = "sound",
        strict: bool | None = None,
        remarks: str | None = None,
    ):
        self._rewriting = Rewriting(text, target, numerics, strict, remarks)
        self._bound = _Bound.of(self._rewriting)
        self._entered = _Stack()

    @property
    def remarks(self) -> list[Remark]:
        """What passes said about the programs lowered under this object so far.

        A program that JAX has cached is not lowered again and adds nothing.
        """
        return self._rewriting.remarks

    def __enter__(self) -> pipeline:
        if self._bound is not None:
            install()
        context = _bound(self._bound)
        context.__enter__()
        self._entered.items.append(context)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._entered.items.pop().__exit__(*exception)


class _Stack(threading.local):
    """A list of its own for each thread."""

    def __init__(self) -> None:
        self.items: list[Any] = []


def set_pipeline(text: str | Pipeline | None, **options: Any) -> pipeline:
    """Bind a pipeline for the process, all threads; None takes it off again.

    `options` and errors are those of `pipeline`, whose `with` blocks win over this. Returns the object that
    has the `remarks`."""
    scope = pipeline(text, **options)
    if scope._bound is not None:
        install()
    _bound.set_global(scope._bound)
    return scope


def _bind_environment() -> None:
    """Bind ZENITH_PIPELINE, with ZENITH_TARGET and ZENITH_NUMERICS, for the process.

    A mistake in them stops no program, unless ZENITH_STRICT is set.
    """
    text = os.environ.get("ZENITH_PIPELINE", "")
    if not text:
        return
    target, numerics = os.environ.get("ZENITH_TARGET"), os.environ.get("ZENITH_NUMERICS")
    try:
        set_pipeline(text, target=target or None, numerics=numerics or "sound")
    except ZenithError as error:
        if strict_environment():
            raise
        message = f"ZENITH_PIPELINE={text} is not applied: {error}"
        warnings.warn(message, ZenithWarning, stacklevel=user_stacklevel())


# ---- One function ----


def jit(fun: Callable[..., Any] | None = None, pipeline: str | Pipeline | None = "default", **options: Any) -> Any:
    """`jax.jit(fun, **options)` that is always rewritten by `pipeline`, whatever is bound where it is called.

    Also a decorator with arguments: `@zenith.jit(pipeline="prepare", static_argnums=1)`. Options named
    `target`, `numerics`, `strict` and `remarks` are those of `zenith.pipeline`. The result has what jax.jit's
    has (`lower`, `trace`, `eval_shape`, ...) and `remarks`.

    Inside another jit the function is part of that program and follows its pipeline. For gradients write
    `zenith.jit(jax.grad(f))`; of `jax.grad(zenith.jit(f))` JAX runs the backward half outside.
    """
    if fun is None:
        return functools.partial(jit, pipeline=pipeline, **options)
    return _Jitted(fun, pipeline, options)


class _Jitted:
    """What `jit` returns."""

    def __init__(self, fun: Callable[..., Any], text: str | Pipeline | None, options: dict[str, Any]):
        ours = [name for name in ("target", "numerics", "strict", "remarks") if name in options]
        self._scope = pipeline(text, **{name: options.pop(name) for name in ours})
        self._jitted = jax.jit(fun, **options)
        functools.update_wrapper(self, fun)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._scope:
            return self._jitted(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """As `jax.jit(fun).lower`."""
        with self._scope:
            return self._jitted.lower(*args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """As `jax.jit(fun).trace`. What it returns is rewritten when lowered, which is also jax.export's
        way."""
        with self._scope:
            traced = copy.copy(self._jitted.trace(*args, **kwargs))
        lower = traced.lower

        def lower_in_scope(**options: Any) -> Any:
            with self._scope:
                return lower(**options)

        traced.lower = lower_in_scope  # type: ignore[method-assign]
        return traced

    @property
    def remarks(self) -> list[Remark]:
        """What passes said when this function was lowered."""
        return self._scope.remarks

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_jitted"], name)

    def __repr__(self) -> str:
        return f"zenith_mlir.jit({self._jitted!r}, {str(self._scope._rewriting.pipeline)!r})"


# ---- The hook ----

_installing = threading.Lock()


def install() -> None:
    """Wrap JAX's lowering and compiling, once. `pipeline`, `set_pipeline`, `jit` and `checkpoint` do it by
    themselves.

    Raises:
        UnsupportedJaxError: if this JAX does not lower or compile programs in the way known here.
    """
    # Private, both: where JAX's own callers look the functions up.
    from jax._src import compiler
    from jax._src.interpreters import mlir

    with _installing:
        if hasattr(getattr(mlir, "lower_jaxpr_to_module", None), "zenith_original"):
            return
        _check_jax(mlir, compiler)
        _register_kernels()
        mlir.lower_jaxpr_to_module = _rewriting(mlir.lower_jaxpr_to_module)
        compiler.compile_or_get_cached = _completing(compiler.compile_or_get_cached)


def uninstall() -> None:
    """Take the hook out, and the pipeline of the process off. Not inside of a `with pipeline(...)` block."""
    from jax._src import compiler
    from jax._src.interpreters import mlir

    _bound.set_global(None)
    with _installing:
        for home, name in ((mlir, "lower_jaxpr_to_module"), (compiler, "compile_or_get_cached")):
            setattr(home, name, getattr(getattr(home, name), "zenith_original", getattr(home, name)))


def _rewriting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def lower_jaxpr_to_module(module_name: str, jaxpr: Any, **kwargs: Any) -> Any:
        result = original(module_name, jaxpr, **kwargs)
        if keeps_barriers(jaxpr):
            compiler_options.require(result.module, compiler_options.KEEP_BARRIERS)
        bound = _bound.value
        if bound is None:
            return result
        target = _target(kwargs["platforms"], for_export=kwargs["lowering_parameters"].for_export)
        # Off while passes run: the kernels that they trace and lower are not rewritten in their turn.
        with _bound(None):
            return result._replace(module=bound.rewriting(result.module, target))

    vars(lower_jaxpr_to_module)["zenith_original"] = original
    return lower_jaxpr_to_module


def _completing(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def compile_or_get_cached(
        backend: Any, computation: Any, devices: Any, compile_options: Any, *args: Any, **kwargs: Any
    ) -> Any:
        compiler_options.apply(computation, backend.platform, compile_options)
        return original(backend, computation, devices, compile_options, *args, **kwargs)

    vars(compile_or_get_cached)["zenith_original"] = original
    return compile_or_get_cached


def _check_jax(mlir: types.ModuleType, compiler: types.ModuleType) -> None:
    """Refuse a JAX whose lowering or compiling is not the one wrapped here, before anything is changed."""
    lowered, compiled = _parameters(mlir, "lower_jaxpr_to_module"), _parameters(compiler, "compile_or_get_cached")
    known = (
        lowered[:2] == ["module_name", "jaxpr"]
        and {"platforms", "lowering_parameters"} <= set(lowered)
        and "module" in getattr(getattr(mlir, "LoweringResult", None), "_fields", ())
        and hasattr(getattr(mlir, "LoweringParameters", None), "for_export")
        and compiled[:4] == ["backend", "computation", "devices", "compile_options"]
    )
    if not known:
        raise UnsupportedJaxError(
            f"JAX {jax.__version__} lowers programs in a way that this zenith_mlir does not know; "
            f"install jax{SUPPORTED_JAX} or a newer zenith_mlir"
        )


def _parameters(home: types.ModuleType, name: str) -> list[str]:
    """The parameters of a function of `home`, in order; none if there is no such function."""
    function = getattr(home, name, None)
    return list(inspect.signature(function).parameters) if callable(function) else []


def _register_kernels() -> None:
    """For the executables that JAX restores from its persistent cache: no pass has prepared their calls
    here."""
    with contextlib.suppress(ImportError):  # not built; lower-kernels then uses none
        from zenith_mlir.kernels import cpu

        cpu.register()


def _target(platforms: Sequence[str], for_export: bool) -> Target:
    """The machine that a lowering is for; none if it is for several or for unknown ones."""
    if for_export or len(platforms) != 1:
        return Target.parse("none")
    return Target.parse({"cpu": "cpu", "cuda": "cuda", "gpu": "cuda"}.get(platforms[0], "none"))


_bind_environment()
