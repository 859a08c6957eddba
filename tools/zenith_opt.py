"""zenith-opt: read a module, run passes, print what they made of it and what they had to say."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zenith_mlir import __version__
from zenith_mlir.errors import ZenithError
from zenith_mlir.tools.isolate import OneLineParser, Progress, fail, isolated

if TYPE_CHECKING:
    from zenith_mlir.context import Numerics, PassContext
    from zenith_mlir.instrument import Instrument
    from zenith_mlir.module import Module
    from zenith_mlir.pipeline import Pipeline
    from zenith_mlir.remarks import Remark
    from zenith_mlir.target import Target
    from zenith_mlir.verify_diagnostics import Diagnostic

PROGRAM = "zenith-opt"
SPLIT_MARK = "// -----"
REMARK_CHOICES = ("none", "missed", "passed", "analysis", "failure", "all")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 1 for any error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args([_with_default_value(argument) for argument in arguments])
    return isolated(PROGRAM, lambda progress: _run(options, progress), lambda: _rescue_reproducer(options))


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=PROGRAM,
        description="Run passes on a StableHLO module. Without -o the result is printed.",
        epilog="exit status: 0, or 1 for any error, a --fail-on-missed match or an unmet expectation",
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
    parser.add_argument("-o", dest="output", metavar="OUT", help="write here: bytecode for .mlirbc, else text")
    parser.add_argument("--emit-bytecode", action="store_true", help="write bytecode")
    parser.add_argument("--print-debuginfo", action="store_true", help="write text with source locations")

    passes = parser.add_argument_group("passes")
    passes.add_argument(
        "--pass",
        dest="passes",
        action="append",
        metavar="NAME{opt=v}",
        help="a pass or pipeline to run; repeatable",
    )
    passes.add_argument(
        "--pass-pipeline", metavar="TEXT", help="all of it: 'prepare,raise-attention{opt=v},func.func(cse)'"
    )
    passes.add_argument("--list-passes", action="store_true", help="list passes and pipelines, and exit")
    passes.add_argument("--explain", metavar="NAME", help="describe a pass and its options, and exit")
    passes.add_argument(
        "--target",
        default="cpu",
        metavar="T",
        help="cpu, cpu:avx2, cuda, cuda:sm_90, none, ... (default: %(default)s)",
    )
    passes.add_argument(
        "--numerics",
        default="sound",
        choices=("exact", "sound", "fast"),
        help="what a rewrite may change: no bit, twice the error, more for speed (default: %(default)s)",
    )
    passes.add_argument(
        "--certify",
        action="store_true",
        help="also run every composite against its implementation, on ordinary and adversarial inputs",
    )

    remarks = parser.add_argument_group("remarks")
    remarks.add_argument(
        "--remarks",
        choices=REMARK_CHOICES,
        help="print remarks of a kind to standard error (default: none; all with --remarks-output-file)",
    )
    remarks.add_argument("--remarks-format", choices=("text", "json"), default="text", help="(default: %(default)s)")
    remarks.add_argument("--remarks-output-file", metavar="F", help="write remarks here instead")
    remarks.add_argument("--fail-on-missed", metavar="REGEX", help="fail if a missed remark, 'pass: op: why', matches")

    testing = parser.add_argument_group("testing and debugging")
    testing.add_argument(
        "--split-input-file", action="store_true", help=f"take the parts between '{SPLIT_MARK}' one by one"
    )
    testing.add_argument(
        "--verify-diagnostics", action="store_true", help="check expected-remark and expected-error comments"
    )
    testing.add_argument(
        "--verify-each",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="verify after every pass (default: yes)",
    )
    for when in ("before", "after"):
        testing.add_argument(
            f"--print-ir-{when}",
            metavar="PASS,...",
            default="",
            help=f"print the module {when} these passes to standard error; without =PASS {when} every one",
        )
        testing.add_argument(f"--print-ir-{when}-all", action="store_true", help=f"the same {when} every pass")
    testing.add_argument(
        "--print-ir-after-change", action="store_true", help="print the module after passes that change it"
    )
    testing.add_argument("--print-ir-diff", action="store_true", help="print what each pass changes as a unified diff")
    testing.add_argument("--timing", action="store_true", help="print the time each pass takes")
    testing.add_argument("--statistics", action="store_true", help="print what each pass counts")
    testing.add_argument("--crash-reproducer", metavar="F", help="when a pass fails, write what it was given here")
    testing.add_argument("--run-reproducer", action="store_true", help="FILE is a reproducer: run what failed again")
    return parser


def _with_default_value(argument: str) -> str:
    """`--print-ir-after FILE` does not take the file for a pass: the value is optional and follows a `=`."""
    return f"{argument}=*" if argument in ("--print-ir-before", "--print-ir-after") else argument


def _run(options: argparse.Namespace, progress: Progress) -> int:
    if options.list_passes or options.explain:
        from zenith_mlir.tools.explain import explain, list_passes

        print(explain(options.explain) if options.explain else list_passes())
        return 0
    return _Run(options, progress).run()


class _Run:
    """One run of the tool over one file."""

    def __init__(self, options: argparse.Namespace, progress: Progress):
        from zenith_mlir.ir import serialize

        self.options = options
        self.progress = progress
        self.remarks: list[Remark] = []
        self.problems: list[str] = []
        self.missed_pattern = _regex(options.fail_on_missed)
        for path in (options.output, options.remarks_output_file, options.crash_reproducer):
            serialize.check_writable(path)
        self.name = "<stdin>" if options.file == "-" else options.file
        progress(f"reading {self.name}")
        self.source = serialize.read_file(options.file)
        self.pipeline, self.target, self.numerics = self._what_to_run()
        self.instrument = _instrument(options, progress)

    def run(self) -> int:
        parts = self._split() if self.options.split_input_file else [(self.source, 1)]
        results = [self._one_part(source, line) for source, line in parts]
        self.progress("writing")
        self._write_remarks()
        self._check_missed()
        if not self.problems:
            self._write_modules([module for module in results if module is not None])
        self.instrument.report()
        for problem in self.problems:
            fail(PROGRAM, problem)
        return 1 if self.problems else 0

    def _what_to_run(self) -> tuple[Pipeline, Target, Numerics]:
        from zenith_mlir.instrument import Reproducer
        from zenith_mlir.pipeline import Pipeline
        from zenith_mlir.target import Target

        options = self.options
        if options.run_reproducer:
            if options.passes or options.pass_pipeline is not None:
                raise ZenithError("a reproducer has its own pipeline; leave --pass and --pass-pipeline out")
            found = Reproducer.read(self.source.decode(errors="replace"), self.name)
            return Pipeline.parse(found.pipeline), Target.parse(found.target), found.numerics
        if options.passes and options.pass_pipeline is not None:
            raise ZenithError("give --pass or --pass-pipeline, not both")
        text = options.pass_pipeline if options.pass_pipeline is not None else ",".join(options.passes or ())
        return Pipeline.parse(text), Target.parse(options.target), options.numerics

    def _split(self) -> list[tuple[bytes, int]]:
        """The parts between the marks, with the number of the first line of each."""
        lines = self.source.splitlines(keepends=True)
        marks = [i for i, line in enumerate(lines) if line.strip() == SPLIT_MARK.encode()]
        starts, ends = [0, *(i + 1 for i in marks)], [*marks, len(lines)]
        return [(b"".join(lines[start:end]), start + 1) for start, end in zip(starts, ends, strict=True)]

    def _one_part(self, source: bytes, line: int) -> Module | None:
        """The rewritten module; None where an error was expected and came."""
        ctx = self._context()
        error = None
        module = None
        try:
            module = self._process(source, line, ctx)
        except ZenithError as caught:
            if not self.options.verify_diagnostics:
                raise
            error = caught
        self.remarks += ctx.remarks
        if self.options.verify_diagnostics:
            self._check_expectations(source, line, ctx.remarks, error)
        return module

    def _process(self, source: bytes, line: int, ctx: PassContext) -> Module:
        from zenith_mlir.ir import serialize
        from zenith_mlir.ir.context import make_context
        from zenith_mlir.module import Module

        self.progress(f"reading {self.name}")
        with self.instrument.timed("(read)"):
            module = Module(serialize.read(source, make_context(), self.name, line, isolated=True))
        if self.options.certify:
            self._certify(module)
        self.pipeline.run(module, ctx, self.instrument)
        return module

    def _context(self) -> PassContext:
        from zenith_mlir.context import PassContext

        return PassContext(self.target, self.numerics)

    def _certify(self, module: Module) -> None:
        """Try the implementation of every composite that the pipeline raises; the verdicts go to standard
        error.
        """
        from zenith_mlir.certify import certify_composites

        self.progress("certifying")
        raised = module.run(self.pipeline, target="none", numerics=self.numerics)
        for certificate in certify_composites(raised, self.target, self.numerics):
            print(certificate.summary, file=sys.stderr)
            if not certificate.accepted:
                self.problems.append(f"{self.name}: {certificate.op} is not accepted under numerics={self.numerics}")

    def _check_expectations(self, source: bytes, line: int, remarks: list[Remark], error: ZenithError | None) -> None:
        from zenith_mlir import verify_diagnostics as verify

        text = source.decode(errors="replace")
        given: list[Diagnostic] = [verify.of_remark(remark) for remark in self._chosen(remarks, "all")]
        given += [verify.of_error(error)] if error else []
        self.problems += verify.mismatches(verify.expectations(text, self.name, line), given, self.name)

    def _chosen(self, remarks: list[Remark], default: str) -> list[Remark]:
        kind = self.options.remarks or default
        return [remark for remark in remarks if kind in ("all", remark.kind)]

    def _write_remarks(self) -> None:
        from zenith_mlir.ir.serialize import write_file

        path = self.options.remarks_output_file
        chosen = self._chosen(self.remarks, "all" if path else "none")
        lines = [remark.to_json() if self.options.remarks_format == "json" else remark.text() for remark in chosen]
        text = "".join(f"{line}\n" for line in lines)
        if path:
            write_file(path, text.encode())
        else:
            sys.stderr.write(text)

    def _check_missed(self) -> None:
        if self.missed_pattern is None:
            return
        missed = [remark for remark in self.remarks if remark.kind == "missed"]
        found = [r for r in missed if self.missed_pattern.search(f"{r.pass_name}: {r.op}: {r.message}")]
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise ZenithError(f"--fail-on-missed={self.options.fail_on_missed}: {found[0].text()}{more}")

    def _write_modules(self, modules: list[Module]) -> None:
        from zenith_mlir.ir import serialize

        output = self.options.output
        with self.instrument.timed("(write)"):
            if self.options.emit_bytecode or (output or "").endswith(".mlirbc"):
                if len(modules) != 1:
                    raise ZenithError(f"bytecode holds one module, and --split-input-file made {len(modules)}")
                content = serialize.bytecode(modules[0].ir)
            else:
                texts = [module.text(debug_info=self.options.print_debuginfo) for module in modules]
                content = f"{SPLIT_MARK}\n".join(texts).encode()
            if output and output != "-":
                serialize.write_file(output, content)
            else:
                sys.stdout.buffer.write(content)
                sys.stdout.buffer.flush()


def _instrument(options: argparse.Namespace, progress: Progress) -> Instrument:
    from zenith_mlir.instrument import ALL, Instrument

    def names(text: str, everything: bool) -> frozenset[str]:
        return ALL if everything else frozenset(filter(None, text.split(",")))

    return Instrument(
        verify_each=options.verify_each,
        timing=options.timing,
        statistics=options.statistics,
        print_before=names(options.print_ir_before, options.print_ir_before_all),
        print_after=names(options.print_ir_after, options.print_ir_after_all),
        print_after_change=options.print_ir_after_change,
        print_diff=options.print_ir_diff,
        crash_reproducer=options.crash_reproducer,
        progress=lambda name: progress(f"running {name}"),
    )


def _regex(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise ZenithError(f"--fail-on-missed={text}: no regular expression: {error}") from None


def _rescue_reproducer(options: argparse.Namespace) -> None:
    """The pass that took the process with it could not rename its reproducer."""
    from zenith_mlir.instrument import running_reproducer

    path = options.crash_reproducer
    if path and os.path.exists(running_reproducer(path)):
        os.replace(running_reproducer(path), path)


if __name__ == "__main__":
    sys.exit(main())
