"""Run an unmodified program with the functions it gives to jax.jit rewritten by a pipeline."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any, NoReturn

from zenith_mlir import __version__
from zenith_mlir.errors import ZenithError


def main(argv: list[str]) -> None:
    """Run the program that `argv` names as `python` would: sys.argv, sys.path, __main__, exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        _check(options)
        os.environ.update(_environment(options))
        from zenith_mlir import autoload  # noqa: F401 - binds the pipeline once the program has imported jax

        code, attributes = (_module if options.m else _script)(options.program)
    except ZenithError as error:
        parser.error(str(error))
    sys.argv[:] = [attributes["__file__"] if options.m else options.program, *options.args]
    _run_as_main(code, attributes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m zenith_mlir",
        usage="%(prog)s [options] (script.py | -m module) [args ...]",
        description=__doc__,
        epilog="Processes that the program starts follow; they are told by ZENITH_PIPELINE and the like.",
    )
    add = parser.add_argument
    add("--pipeline", default="default", metavar="P", help='the pipeline, "default" unless given')
    add("--target", metavar="T", help="cpu, cpu:avx2, cuda, cuda:sm_90, none; default: this machine")
    add("--numerics", choices=["exact", "sound", "fast"], help="what rewrites may cost; default: sound")
    add("--remarks", choices=["passed", "missed", "all"], help="print what the passes say to standard error")
    add("--strict", action="store_true", help="a failing pass ends the program")
    add("--version", action="version", version=f"zenith_mlir {__version__}")
    add("-m", action="store_true", help="the program is a module, as in python -m")
    add("program", help=argparse.SUPPRESS)
    add("args", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _check(options: argparse.Namespace) -> None:
    """Raise `ZenithError` for a pipeline or target that means nothing, before the program starts."""
    from zenith_mlir.pipeline import Pipeline
    from zenith_mlir.target import Target

    Pipeline.parse(options.pipeline)
    if options.target is not None:
        Target.parse(options.target)


def _environment(options: argparse.Namespace) -> dict[str, str]:
    chosen = {
        "ZENITH_PIPELINE": options.pipeline,
        "ZENITH_TARGET": options.target,
        "ZENITH_NUMERICS": options.numerics,
        "ZENITH_REMARKS": options.remarks,
        "ZENITH_STRICT": "1" if options.strict else None,
    }
    return {name: value for name, value in chosen.items() if value is not None}


def _script(path: str) -> tuple[Callable[[], CodeType], dict[str, Any]]:
    """How to compile the script, and the attributes that make a module its __main__."""
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        raise ZenithError(f"cannot read {path}: {error.strerror}; name a script, or -m module") from None
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    path = os.path.abspath(path)
    return lambda: compile(source, path, "exec"), {"__file__": path, "__package__": None, "__spec__": None}


def _module(name: str) -> tuple[Callable[[], CodeType], dict[str, Any]]:
    """The same for a module, or the __main__ of a package."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except ModuleNotFoundError as error:
        raise ZenithError(f"cannot run {name}: {error}") from None
    if spec is None or not hasattr(spec.loader, "get_code"):
        raise ZenithError(f"no module named {name} that can be run; a package needs a __main__.py")
    get_code, full_name = spec.loader.get_code, spec.name  # type: ignore[union-attr]
    return lambda: get_code(full_name), {
        "__file__": spec.origin,
        "__loader__": spec.loader,
        "__package__": spec.parent,
        "__spec__": spec,
    }


def _run_as_main(code: Callable[[], CodeType], attributes: dict[str, Any]) -> None:
    """Execute in a module that stays __main__, where pickle and multiprocessing look for it."""
    module = ModuleType("__main__")
    module.__dict__.update(attributes)
    sys.modules["__main__"] = module
    try:
        exec(code(), module.__dict__)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        _end_with_traceback(error)


def _end_with_traceback(error: BaseException) -> NoReturn:
    """Report an uncaught exception as the interpreter does, beginning with the program's own frames."""
    ours = (__file__, "<frozen importlib._bootstrap_external>")
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    error.__traceback__ = trace
    sys.excepthook(type(error), error, trace)
    sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
