"""zenith-run: run a module, or compare it before and after a pipeline: error, time, memory."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from zenith_mlir import __version__
from zenith_mlir.json_text import dumps
from zenith_mlir.tools.arguments import UsageError, arrays_from_file
from zenith_mlir.tools.isolate import OneLineParser, Progress, fail, isolated

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

    from zenith_mlir.certify.certificate import Case, Certificate
    from zenith_mlir.certify.compare import Comparison, Cost
    from zenith_mlir.module import Module
    from zenith_mlir.target import Target

PROGRAM = "zenith-run"
SHOWN_RESULTS = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 1 for an error or a result that is not sound."""
    options = _parser().parse_args(argv)
    work = _compare if options.compare or options.certify else _run
    return isolated(PROGRAM, lambda progress: work(options, progress))


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=PROGRAM,
        description="Run a StableHLO module after a pipeline, or compare it before and after.",
        epilog="exit status: 0; 1 for an error, and under --compare and --certify for what is not sound",
    )
    add = parser.add_argument
    add("file", help="the module: MLIR text, bytecode, a portable artifact or a jax.export blob")
    add("--pipeline", default="default", help="passes to run (default: %(default)s; '' for none)")
    add("--compare", action="store_true", help="run before and after the pipeline, judge both in float64")
    add(
        "--certify",
        action="store_true",
        help="compare, and try each composite's kernel on adversarial inputs",
    )
    add(
        "--args",
        default="random:0",
        metavar="random:SEED|FILE.npz",
        help="arguments of main: drawn to suit their use, or saved ones (default: %(default)s)",
    )
    add("--repeat", type=_positive, default=5, metavar="N", help="timed runs (default: %(default)s)")
    add("--target", metavar="T", help="cpu, cuda, cuda:sm_90, ... (default: this machine)")
    add("--numerics", default="sound", choices=("exact", "sound", "fast"), help="what a rewrite may change")
    add("--json", action="store_true", help="print one JSON object instead of tables")
    add("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a positive number is expected, not {text!r}")
    return int(text)


def _run(options: argparse.Namespace, progress: Progress) -> int:
    """Run the module after the pipeline and say what its results are."""
    import numpy as np

    from zenith_mlir.certify.compare import random_inputs, timed
    from zenith_mlir.certify.inputs import InputSet

    module, target = _load(options, progress), _target(options)
    given = _arrays_from_file(options, module)
    seed = 0 if given else _seed(options)
    progress(f"running {options.pipeline}")
    module = module.run(options.pipeline, target=target, numerics=options.numerics)
    progress("compiling and running the module")
    executable = module.compile(target)
    name, arrays = InputSet("given", tuple(given)) if given else random_inputs(module, seed, executable)
    results = [np.asarray(result) for result in executable(*arrays)]
    (cost,) = timed([executable], arrays, options.repeat)
    facts = [_facts(result) for result in results]
    if options.json:
        _print_json({"file": options.file, "arguments": name, "results": facts, "cost": asdict(cost)})
    else:
        console = _console()
        columns = ("result", "type", "mean |x|", "not finite", "sha256")
        _print_table(console, columns, [[str(i), *map(str, fact.values())] for i, fact in enumerate(facts)])
        console.print(f"arguments {name}; {_milliseconds(cost)}; temporary {_mebibytes(cost.temp_bytes)}")
    return 0


def _compare(options: argparse.Namespace, progress: Progress) -> int:
    """Run the module before and after the pipeline, and judge."""
    from zenith_mlir.certify import certify_composites
    from zenith_mlir.certify.compare import compare

    module, target = _load(options, progress), _target(options)
    given = _arrays_from_file(options, module)
    progress(f"comparing the module before and after {options.pipeline}")
    comparison = compare(
        module,
        options.pipeline,
        arrays=given,
        seed=0 if given else _seed(options),
        target=target,
        numerics=options.numerics,
        repeat=options.repeat,
    )
    certificates: list[Certificate] = []
    if options.certify:
        progress("certifying")
        raised = module.run(options.pipeline, target="none", numerics=options.numerics)
        certificates = certify_composites(raised, target, options.numerics)
    if options.json:
        _print_json(_comparison_as_dict(options, comparison, certificates))
    else:
        _print_comparison(_console(), comparison, certificates)
    refused = [c for c in (comparison.certificate, *certificates) if not c.accepted]
    for certificate in refused:
        fail(PROGRAM, f"{options.file}: {_first_failure(certificate)}")
    return 1 if refused else 0


def _first_failure(certificate: Certificate) -> str:
    first, *others = certificate.failures
    more = f" (and {len(others)} more)" if others else ""
    reason = first.reason or "the bits differ"
    return f"{certificate.op} is not accepted: {first.name}, result {first.result}: {reason}{more}"


def _load(options: argparse.Namespace, progress: Progress) -> Module:
    from zenith_mlir.module import load

    progress(f"reading {options.file}")
    return load(options.file)


def _target(options: argparse.Namespace) -> Target:
    from zenith_mlir.target import Target

    return Target.parse(options.target) if options.target else Target.host()


def _seed(options: argparse.Namespace) -> int:
    kind, _, seed = options.args.partition(":")
    if kind != "random" or not (seed or "0").isdigit():
        raise UsageError(f"--args is random, random:SEED or a file ending in .npz, not {options.args!r}")
    return int(seed or 0)


def _arrays_from_file(options: argparse.Namespace, module: Module) -> list[NDArray[Any]] | None:
    """The arrays of an .npz; None for random ones."""
    return arrays_from_file(options.args, module) if options.args.endswith(".npz") else None


def _facts(result: NDArray[Any]) -> dict[str, Any]:
    """Type, mean magnitude, count of NaN and inf, and a checksum of the bytes."""
    import numpy as np

    from zenith_mlir.certify.judge import is_float_like

    finite = np.isfinite(result) if is_float_like(result.dtype) else np.ones(result.shape, bool)
    magnitudes = np.abs(result[finite].astype(np.complex128))
    return {
        "type": _type_name(result),
        "mean": f"{magnitudes.mean():.6g}" if magnitudes.size else "-",
        "nonfinite": int(finite.size - finite.sum()),
        "sha256": hashlib.sha256(result.tobytes()).hexdigest()[:16],
    }


def _type_name(array: NDArray[Any]) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, soft_wrap=True)


def _print_table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _print_comparison(console: Console, comparison: Comparison, certificates: Sequence[Certificate]) -> None:
    cases = sorted(comparison.certificate.cases, key=lambda case: (case.sound, -case.ratio))
    columns = ("result", "measure", "error before", "error after", "ratio", "allowed", "verdict")
    _print_table(console, columns, [_row(case) for case in cases[:SHOWN_RESULTS]])
    if len(cases) > SHOWN_RESULTS:
        rest = "all sound" if cases[SHOWN_RESULTS].sound else "some unsound"
        console.print(f"... and {len(cases) - SHOWN_RESULTS} more results with smaller ratios, {rest}")
    console.print(comparison.certificate.summary)
    if blind := [str(case.result) for case in cases if case.judged == 0.0]:
        console.print(f"nothing to judge, since no number is finite: result {', '.join(blind)}")
    before, after = comparison.before, comparison.after
    console.print(f"time      before {_milliseconds(before)}, after {_milliseconds(after)}")
    console.print(f"temporary before {_mebibytes(before.temp_bytes)}, after {_mebibytes(after.temp_bytes)}")
    console.print(f"raised    {_counts(comparison.raised)}")
    console.print(f"kernels   {_counts(comparison.kernels)}")
    for remark in comparison.declined:
        console.print(remark)
    for certificate in certificates:
        console.print(f"certified {certificate.summary}")


def _row(case: Case) -> list[str]:
    numbers = (case.error_original, case.error_fused)
    verdict = "sound" if case.sound else f"UNSOUND: {case.reason}"
    return [
        str(case.result),
        case.measure,
        *(f"{number:.2e}" for number in numbers),
        f"{case.ratio:.2f}",
        f"{case.allowed:.2e}",
        verdict if case.judged > 0 else "not judged",
    ]


def _milliseconds(cost: Cost) -> str:
    return f"{cost.median * 1e3:.3f} ms (fastest {cost.minimum * 1e3:.3f})"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def _comparison_as_dict(
    options: argparse.Namespace, comparison: Comparison, certificates: Sequence[Certificate]
) -> dict[str, Any]:
    return {
        "file": options.file,
        "pipeline": options.pipeline,
        "numerics": options.numerics,
        **_certificate_as_dict(comparison.certificate),
        "before": asdict(comparison.before),
        "after": asdict(comparison.after),
        "raised": comparison.raised,
        "kernels": comparison.kernels,
        "declined": list(comparison.declined),
        "certificates": [_certificate_as_dict(certificate) for certificate in certificates],
    }


def _certificate_as_dict(certificate: Certificate) -> dict[str, Any]:
    return {
        "op": certificate.op,
        "sound": certificate.sound,
        "accepted": certificate.accepted,
        "worst_ratio": certificate.worst_ratio,
        "cases": [{**asdict(case), "sound": case.sound, "reason": case.reason} for case in certificate.cases],
    }


def _print_json(value: Any) -> None:
    print(dumps(value, indent=2))


if __name__ == "__main__":
    sys.exit(main())
