"""zenith-report: run a pipeline on a module, and tell on one page what it did and what memory the program takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from zenith_mlir import __version__
from zenith_mlir.errors import ZenithError
from zenith_mlir.tools.isolate import OneLineParser, Progress, isolated

PROGRAM = "zenith-report"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 1 for any error."""
    options = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    return isolated(PROGRAM, lambda progress: _run(options, progress))


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=PROGRAM,
        description="Run passes on a StableHLO module and write one HTML page: remarks, and memory before and after.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument(
        "file",
        nargs="?",
        default="-",
        metavar="FILE",
        help="MLIR text, bytecode, a portable artifact or a serialized jax.export; - (default) is stdin",
    )
    parser.add_argument("-o", dest="output", metavar="OUT", help="write here instead of printing")
    parser.add_argument(
        "--pass", dest="passes", action="append", metavar="NAME{opt=v}", help="a pass or pipeline to run; repeatable"
    )
    parser.add_argument("--pass-pipeline", metavar="TEXT", help="all of it (default: 'default')")
    parser.add_argument(
        "--target", default="cpu", metavar="T", help="cpu, cuda:sm_90, none, ... (default: %(default)s)"
    )
    parser.add_argument(
        "--numerics", default="sound", choices=("exact", "sound", "fast"), help="(default: %(default)s)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile before and after, and show the memory that XLA allocates"
    )
    parser.add_argument("--json", action="store_true", help="write one JSON object instead of a page")
    return parser


def _run(options: argparse.Namespace, progress: Progress) -> int:
    from zenith_mlir.ir import serialize
    from zenith_mlir.ir.context import make_context
    from zenith_mlir.pipeline import Pipeline
    from zenith_mlir.target import Target

    if options.passes and options.pass_pipeline is not None:
        raise ZenithError("give --pass or --pass-pipeline, not both")
    text = options.pass_pipeline if options.pass_pipeline is not None else ",".join(options.passes or ["default"])
    pipeline, target = Pipeline.parse(text), Target.parse(options.target)
    serialize.check_writable(options.output)
    if not options.json:
        _need_libraries()
    name = "<stdin>" if options.file == "-" else options.file
    progress(f"reading {name}")
    source = serialize.read_file(options.file)
    ir_module = serialize.read(source, make_context(), name, isolated=True)

    from zenith_mlir.module import Module
    from zenith_mlir.report.run import run

    findings = run(
        Module(ir_module),
        name,
        pipeline,
        target,
        options.numerics,
        compiled=options.compile,
        progress=progress,
    )
    progress("writing")
    if options.json:
        content = findings.to_json() + "\n"
    else:
        from zenith_mlir.report.page import render

        content = render(findings)
    if options.output and options.output != "-":
        serialize.write_file(options.output, content.encode())
    else:
        sys.stdout.write(content)
    return 0


def _need_libraries() -> None:
    """Say what is missing before anything runs."""
    from zenith_mlir.optional import need

    for library in ("jinja2", "matplotlib"):
        need(library, "report")


if __name__ == "__main__":
    sys.exit(main())
