"""zenith-precision: what a precision policy costs each value of a program, and which lines of it to leave out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from zenith_mlir import __version__
from zenith_mlir.tools.isolate import OneLineParser, Progress, isolated

PROGRAM = "zenith-precision"
DEFAULT = "cast-precision{compute=bf16}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 1 for any error."""
    options = _parser().parse_args(argv)
    return isolated(PROGRAM, lambda progress: _run(options, progress))


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=PROGRAM,
        description="Run a StableHLO module after passes and in float64, and tell the error of each of its values.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"{PROGRAM} {__version__}")
    add("file", metavar="FILE", help="MLIR text, bytecode, a portable artifact or a serialized jax.export; - is stdin")
    add("-o", dest="output", metavar="OUT", help="write here instead of printing")
    add("--pass-pipeline", default=DEFAULT, metavar="TEXT", help="the passes to judge (default: %(default)s)")
    add("--inputs", metavar="F.npz", help="arguments of main (default: random, drawn to suit their use)")
    add("--seed", type=_natural, default=0, metavar="N", help="of the random arguments (default: %(default)s)")
    add(
        "--top",
        type=_natural,
        default=20,
        metavar="N",
        help="values and lines that a table shows (default: %(default)s)",
    )
    add("--format", default="table", choices=("table", "json"), help="(default: %(default)s)")
    add("--no-effects", action="store_true", help="do not measure what each line does to the results: faster")
    add("--target", metavar="T", help="cpu, cuda, ... (default: this machine)")
    add("--numerics", default="sound", choices=("exact", "sound", "fast"), help="(default: %(default)s)")
    return parser


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"a natural number is expected, not {text!r}")
    return int(text)


def _run(options: argparse.Namespace, progress: Progress) -> int:
    from zenith_mlir.ir import serialize
    from zenith_mlir.ir.context import make_context
    from zenith_mlir.pipeline import Pipeline
    from zenith_mlir.target import Target
    from zenith_mlir.tools.arguments import arrays_from_file

    pipeline = Pipeline.parse(options.pass_pipeline)
    target = Target.parse(options.target) if options.target else None
    serialize.check_writable(options.output)
    name = "<stdin>" if options.file == "-" else options.file
    progress(f"reading {name}")
    source = serialize.read_file(options.file)
    ir_module = serialize.read(source, make_context(), name, isolated=True)

    from zenith_mlir.module import Module
    from zenith_mlir.precision import report

    module = Module(ir_module)
    arrays = [] if options.inputs is None else arrays_from_file(options.inputs, module)
    found = report(
        module,
        *arrays,
        pipeline=pipeline,
        seed=options.seed,
        target=target,
        numerics=options.numerics,
        effects=not options.no_effects,
        progress=progress,
    )
    progress("writing")
    content = found.to_json() + "\n" if options.format == "json" else found.text(options.top)
    if options.output and options.output != "-":
        serialize.write_file(options.output, content.encode())
    else:
        sys.stdout.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
