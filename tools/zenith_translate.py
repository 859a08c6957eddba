"""zenith-translate: a module from one format into another, or from a JAX function."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zenith_mlir import __version__
from zenith_mlir.errors import ZenithError
from zenith_mlir.tools.isolate import OneLineParser, Progress, isolated

if TYPE_CHECKING:
    from zenith_mlir.module import Module

PROGRAM = "zenith-translate"
ARRAY = re.compile(r"\s*(\w+)\s*(?:\[([\d,\s]*)\])?\s*")
DTYPES: Mapping[str, str] = {
    "pred": "bool",
    "bool": "bool",
    **{
        f"{short}{n}": f"{long}{n}"
        for short, long in (("i", "int"), ("s", "int"), ("u", "uint"))
        for n in (8, 16, 32, 64)
    },
    **{f"f{n}": f"float{n}" for n in (16, 32, 64)},
    "bf16": "bfloat16",
    "c64": "complex64",
    "c128": "complex128",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 1 for any error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(
        ["--tool-version" if argument == "--version" else argument for argument in arguments]
    )
    return isolated(PROGRAM, lambda progress: _run(options, progress))


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=PROGRAM,
        description="Translate a StableHLO module between formats, or trace one from a JAX function.",
        epilog=f"{PROGRAM} --version alone prints the version of this program",
        allow_abbrev=False,
    )
    parser.add_argument("--tool-version", action="version", version=f"{PROGRAM} {__version__}", help=argparse.SUPPRESS)
    parser.add_argument(
        "file",
        nargs="?",
        default="-",
        metavar="FILE",
        help="MLIR text, bytecode, a portable artifact or a serialized jax.export; - (default) is stdin",
    )
    parser.add_argument("--to", choices=("text", "bytecode", "portable"), default="text", help="(default: %(default)s)")
    parser.add_argument(
        "--version",
        default="current",
        metavar="V",
        help="StableHLO version of a portable artifact: current, minimum or as 1.9.0 (default: %(default)s)",
    )
    parser.add_argument("--print-debuginfo", action="store_true", help="write text with source locations")
    parser.add_argument("--trace", metavar="MODULE:FUNCTION", help="trace this JAX function instead of reading FILE")
    parser.add_argument(
        "--arg",
        dest="args",
        action="append",
        default=[],
        metavar="f32[2,64]",
        help="type of the next argument; repeatable",
    )
    parser.add_argument("-o", dest="output", metavar="OUT", help="write here instead of printing")
    onnx = parser.add_argument_group("ONNX", 'arguments of main become inputs; needs pip install "zenith_mlir[onnx]"')
    onnx.add_argument("--to-onnx", action="store_true", help="convert to an ONNX model, written to OUT")
    onnx.add_argument("--opset", type=int, metavar="N", help="17 to 24 (default: 23)")
    onnx.add_argument(
        "--params", metavar="FILE.npz", help="values of arguments by their names, which become weights of the model"
    )
    onnx.add_argument(
        "--weights", choices=("initializer", "external", "input"), help="in OUT (default), in OUT.data, or as inputs"
    )
    onnx.add_argument("--pass-pipeline", metavar="PASSES", help="passes to run before (default: onnx)")
    onnx.add_argument(
        "--fused",
        choices=("measured", "always", "never"),
        help="ONNX's fused operators where measured to be no slower (default), always, or never",
    )
    onnx.add_argument("--validate", action="store_true", help="run it on onnxruntime beside XLA, on random inputs")
    onnx.add_argument("--report", action="store_true", help="say on standard error what was written")
    return parser


def _run(options: argparse.Namespace, progress: Progress) -> int:
    from zenith_mlir.ir import serialize

    if options.args and not options.trace:
        raise ZenithError("--arg describes the arguments of a function; say which with --trace module:function")
    if options.version != "current" and options.to != "portable":
        raise ZenithError(f"only a portable artifact has a version; --version={options.version} needs --to=portable")
    _check_onnx(options)
    serialize.check_writable(options.output)
    progress(f"tracing {options.trace}" if options.trace else f"reading {options.file}")
    module = _trace(options.trace, options.args) if options.trace else _read(options.file)
    if options.to_onnx:
        return _write_onnx(module, options, progress)
    progress("writing")
    content = _content(module, options)
    if options.output and options.output != "-":
        serialize.write_file(options.output, content)
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    return 0


_ONNX = ("opset", "params", "weights", "pass_pipeline", "fused", "validate", "report")


def _check_onnx(options: argparse.Namespace) -> None:
    if not options.to_onnx:
        given = [f"--{name.replace('_', '-')}" for name in _ONNX if getattr(options, name)]
        if given:
            raise ZenithError(f"{', '.join(given)} belongs to --to-onnx")
    elif options.to != "text" or options.print_debuginfo:
        raise ZenithError("--to-onnx writes an ONNX model; leave --to and --print-debuginfo away")
    elif options.output in (None, "-"):
        raise ZenithError("an ONNX model is written to a file; name it with -o model.onnx")


def _write_onnx(module: Module, options: argparse.Namespace, progress: Progress) -> int:
    from zenith_mlir.onnx import Options, export_module
    from zenith_mlir.onnx.weights import read_weights

    progress("converting to ONNX")
    chosen = Options(
        options.opset or 23, options.weights or "initializer", options.pass_pipeline or "default",
        fused=options.fused or "measured",
    )  # fmt: skip
    weights = read_weights(options.params) if options.params else None
    export = export_module(module, options.output, chosen, named=weights, validate=options.validate)
    if options.report:
        print(export.report, file=sys.stderr)
    return 0


def _read(path: str) -> Module:
    from zenith_mlir.ir import serialize
    from zenith_mlir.ir.context import make_context
    from zenith_mlir.module import Module

    name = "<stdin>" if path == "-" else path
    return Module(serialize.read(serialize.read_file(path), make_context(), name, isolated=True))


def _content(module: Module, options: argparse.Namespace) -> bytes:
    from zenith_mlir.ir import serialize

    if options.to == "bytecode":
        return serialize.bytecode(module.ir)
    if options.to == "portable":
        return serialize.portable_artifact(module.ir, options.version)
    return module.text(debug_info=options.print_debuginfo).encode()


def _trace(path: str, args: list[str]) -> Module:
    from zenith_mlir.module import trace

    specs = [_array(text) for text in args]
    function = _find(path)
    try:
        return trace(function, *specs)
    except Exception as error:
        raise ZenithError(f"{path} cannot be traced with ({', '.join(args)}): {_in_one_line(error)}") from error


def _find(path: str) -> Any:
    """The function that `package.module:function` names; the working directory is searched too."""
    import importlib

    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ZenithError(f"a function to trace is written package.module:function, not {path!r}")
    sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ZenithError(f"cannot import {path}: {_in_one_line(error)}") from error
    if not callable(found):
        raise ZenithError(f"{path} is a {type(found).__name__}; a function is expected")
    return found


def _array(text: str) -> Any:
    import jax
    import jax.numpy as jnp

    match = ARRAY.fullmatch(text)
    if match is None or match[1] not in DTYPES:
        raise ZenithError(f"an argument is written f32[2,64,256] with one of {', '.join(DTYPES)}; not {text!r}")
    shape = tuple(int(size) for size in (match[2] or "").split(",") if size.strip())
    return jax.ShapeDtypeStruct(shape, jnp.dtype(DTYPES[match[1]]))


def _in_one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


if __name__ == "__main__":
    sys.exit(main())
