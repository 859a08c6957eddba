"""zenith-opt and zenith-translate as a user runs them: every flag, and every way to go wrong."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import zenith_mlir as zenith
from zenith_mlir.ir import serialize
from zenith_mlir.tools import zenith_opt

pytestmark = pytest.mark.once  # test/lit runs the tool on every version of JAX

TEXT = """func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.sine %x : tensor<4xf32>
  %1 = stablehlo.sine %x : tensor<4xf32>
  %2 = stablehlo.add %0, %1 : tensor<4xf32>
  return %2 : tensor<4xf32>
}
"""

Opt = Callable[..., "subprocess.CompletedProcess[str]"]

# Passes for these tests, found as those of any package are: by an entry point.
PASSES = '''
import os, time
from dataclasses import dataclass
from zenith_mlir import Pass, ZenithError, option, register

@register("say")
@dataclass(frozen=True)
class Say(Pass):
    """Say something about every sine."""
    kind: str = option("missed", "of the remark")
    def run(self, module, ctx):
        for op in module.body.operations[0].body.blocks[0].operations:
            if op.operation.name == "stablehlo.sine":
                suggest = {"suggest": "write one"} if self.kind == "missed" else {}
                getattr(ctx, self.kind)(op, "zenith.sine", "no kernel", n=1, **suggest)

@register("crash")
@dataclass(frozen=True)
class Crash(Pass):
    """End badly."""
    how: str = option("abort", "how")
    def run(self, module, ctx):
        if self.how == "abort":
            os.abort()
        if self.how == "sleep":
            print("sleeping", flush=True)
            time.sleep(60)
        if self.how == "bug":
            raise KeyError("oops")
        raise ZenithError("two\\nlines")
'''


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    (folder / "opt_test_passes.py").write_text(PASSES)
    info = folder / "opt_test_passes-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: opt-test-passes\nVersion: 1\n")
    names = "say = opt_test_passes:Say\ncrash = opt_test_passes:Crash\n"
    (info / "entry_points.txt").write_text(f"[zenith_mlir.passes]\n{names}")
    return folder


@pytest.fixture
def opt(package: Path, tmp_path: Path) -> Opt:
    (tmp_path / "in.mlir").write_text(TEXT)

    def run(
        *arguments: str | Path, tool: str = "zenith_opt", stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", f"zenith_mlir.tools.{tool}", *map(str, arguments)],
            cwd=tmp_path,
            env=environment(package),
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
        )
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        assert "Traceback" not in err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    return run


def environment(package: Path) -> dict[str, str]:
    checkout = str(Path(zenith.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([checkout, str(package)]), "COLUMNS": "100"}


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(("zenith-opt: error: ", "zenith-translate: error: "))
    return line


def test_prints_the_module_and_nothing_else(opt: Opt) -> None:
    done = opt("in.mlir", "--pass", "cse", "--pass", "say")
    assert (done.returncode, done.stderr) == (0, "")
    assert zenith.load(done.stdout).text() == done.stdout
    assert done.stdout.count("stablehlo.sine") == 1


@pytest.mark.parametrize(
    ("flags", "kinds"),
    [
        ([], []),
        (["--remarks=none"], []),
        (["--remarks=missed"], ["missed"]),
        (["--remarks=passed"], ["passed"]),
        (["--remarks=all"], ["missed", "passed", "analysis"]),
    ],
)
def test_remarks(opt: Opt, flags: list[str], kinds: list[str]) -> None:
    pipeline = "--pass-pipeline=cse,say,say{kind=passed},say{kind=analysis}"
    done = opt("in.mlir", pipeline, *flags)
    assert [line.split("[")[1].split("]")[0] for line in done.stderr.splitlines()] == kinds
    if "missed" in kinds:
        assert done.stderr.splitlines()[0] == "in.mlir:2:8: remark: [missed] say: no kernel; write one"


def test_remarks_as_json_in_a_file(opt: Opt, tmp_path: Path) -> None:
    opt("in.mlir", "--pass", "cse", "--pass", "say", "--remarks-format=json", "--remarks-output-file=r.jsonl")
    (line,) = (tmp_path / "r.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "kind": "missed",
        "pass": "say",
        "op": "zenith.sine",
        "function": "main",
        "file": "in.mlir",
        "line": 2,
        "col": 8,
        "reason": "no kernel",
        "suggest": "write one",
        "args": {"n": 1},
    }


def test_fail_on_missed(opt: Opt, tmp_path: Path) -> None:
    line = error_of(opt("in.mlir", "--pass", "say", "--fail-on-missed=zenith.sine.*kernel", "-o", "out.mlir"))
    assert "in.mlir:2:8: remark: [missed] say: no kernel; write one (and 1 more)" in line
    assert not (tmp_path / "out.mlir").exists()
    assert opt("in.mlir", "--pass", "say", "--fail-on-missed=attention").returncode == 0
    assert opt("in.mlir", "--pass", "say{kind=passed}", "--fail-on-missed=.").returncode == 0


def test_verify_diagnostics_of_remarks(opt: Opt, tmp_path: Path) -> None:
    lines = TEXT.splitlines()
    lines[1] += "  // expected-remark {{no kernel}}"
    lines[2] += "\n  // expected-remark@-1 {{[missed] say}}"
    (tmp_path / "in.mlir").write_text("\n".join(lines))
    done = opt("in.mlir", "--pass", "say", "--verify-diagnostics")
    assert (done.returncode, done.stderr) == (0, "")
    done = opt("in.mlir", "--pass", "cse", "--verify-diagnostics")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        'zenith-opt: error: in.mlir:2: expected remark "no kernel" was not produced at line 2',
        'zenith-opt: error: in.mlir:4: expected remark "[missed] say" was not produced at line 3',
    ]


def test_reads_standard_input(opt: Opt) -> None:
    module = zenith.load(TEXT)
    for source in (TEXT.encode(), serialize.bytecode(module.ir), serialize.portable_artifact(module.ir)):
        assert opt("-", stdin=source).stdout == module.text()
        assert opt(stdin=source).stdout == module.text()
    assert "<stdin>:1:1: " in error_of(opt(stdin=b"nonsense"))


def test_target_and_numerics_reach_the_passes(opt: Opt) -> None:
    assert opt("in.mlir", "--pass", "say", "--target=cuda:sm_90", "--numerics=exact").returncode == 0
    assert "unknown target" in error_of(opt("in.mlir", "--target=moon"))
    assert "--numerics" in error_of(opt("in.mlir", "--numerics=sloppy"))


BAD = {
    "empty": b"",
    "text": b"func.func @main() -> tensor<4xf32> {\n  return\n}",
    "dialect": b"module {\n  moon.rise\n}",
    "utf8": b"module { \xff }",
    "garbage": bytes(range(255, 0, -1)),
    "magic": b"ML\xefR",
    "nested": b"module {" * 20000,
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(opt: Opt, tmp_path: Path, name: str) -> None:
    (tmp_path / "bad").write_bytes(BAD[name])
    (tmp_path / "out").write_text("untouched")
    for tool in ("zenith_opt", "zenith_translate"):
        line = error_of(opt("bad", "-o", "out", tool=tool))
        assert "bad" in line
        assert "bad:2:" in line or name not in ("text", "dialect")
    assert (tmp_path / "out").read_text() == "untouched"


@pytest.mark.parametrize("form", ["bytecode", "portable"])
def test_truncated_bytecode(opt: Opt, tmp_path: Path, form: str) -> None:
    module = zenith.load(TEXT)
    whole = serialize.bytecode(module.ir) if form == "bytecode" else serialize.portable_artifact(module.ir)
    for size in range(5, len(whole), len(whole) // 5):
        (tmp_path / "bad").write_bytes(whole[:size])
        assert "bad: damaged" in error_of(opt("bad"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing.mlir"], "cannot read nothing.mlir: No such file"),
        (["."], "Is a directory"),
        (["in.mlir", "-o", "nowhere/out"], "there is no directory"),
        (["in.mlir", "-o", "."], "it is a directory"),
        (["in.mlir", "--remarks-output-file=nowhere/out"], "there is no directory"),
        (["in.mlir", "--crash-reproducer=nowhere/out"], "there is no directory"),
        (["in.mlir", "--pass", "fuse-atention"], "did you mean fuse-attention"),
        (
            ["in.mlir", "--pass", "say{kin=x}"],
            "no option kin (did you mean kind?); valid options: kind=<str>",
        ),
        (["in.mlir", "--pass", "canonicalize{max-iterations=x}"], "max-iterations=10"),
        (["in.mlir", "--pass", "cse", "--pass-pipeline=cse"], "not both"),
        (["in.mlir", "--pass", "cse", "--run-reproducer"], "has its own pipeline"),
        (["in.mlir", "--fail-on-missed=("], "no regular expression"),
        (["in.mlir", "--moon"], "unrecognized arguments: --moon"),
        (["in.mlir", "--print-ir-after=moon"], "no pass moon"),
        (["in.mlir", "--pass", "crash{how=bug}"], "pass crash failed: KeyError: 'oops' ("),
        (["in.mlir", "--pass", "crash{how=error}"], "pass crash failed: two lines"),
        (["--explain", "moon"], "unknown pass moon"),
    ],
)
def test_bad_command_lines(opt: Opt, arguments: list[str], says: str) -> None:
    assert says in error_of(opt(*arguments))


def test_output_goes_to_devices_and_is_refused_before_the_work(opt: Opt, tmp_path: Path) -> None:
    assert opt("in.mlir", "-o", "/dev/null").returncode == 0
    assert not Path("/dev/null").is_file()
    assert "nowhere" in error_of(opt("in.mlir", "--pass", "crash", "-o", "nowhere/out"))
    assert opt("in.mlir", "-o", "in.mlir", "--pass", "cse").returncode == 0
    assert (tmp_path / "in.mlir").read_text().count("stablehlo.sine") == 1


def test_native_code_that_aborts_is_one_error(opt: Opt, tmp_path: Path) -> None:
    done = opt("in.mlir", "--pass", "cse", "--pass", "crash", "--crash-reproducer=crash.mlir", "-o", "out.mlir")
    assert "native code died (SIGABRT) while running crash" in error_of(done)
    assert sorted(os.listdir(tmp_path)) == ["crash.mlir", "in.mlir"]
    assert "native code died (SIGABRT)" in error_of(opt("crash.mlir", "--run-reproducer"))


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruptions_are_quiet(package: Path, tmp_path: Path, sent: int, status: int) -> None:
    (tmp_path / "in.mlir").write_text(TEXT)
    command = [sys.executable, "-m", "zenith_mlir.tools.zenith_opt", "in.mlir", "--pass", "crash{how=sleep}"]
    pipe = subprocess.PIPE

    def in_the_foreground() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which shells have ignored by what they run in the background

    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(package), stdout=pipe, stderr=pipe, preexec_fn=in_the_foreground
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"sleeping\n"
        process.send_signal(sent)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (status, b"", b"")


def test_a_killed_tool_leaves_no_child(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in.mlir").write_text(TEXT)
    command = [sys.executable, "-m", "zenith_mlir.tools.zenith_opt", "in.mlir", "--pass", "crash{how=sleep}"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(package), stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        process.kill()
        started = time.monotonic()
        process.stdout.read()  # ends when the child that holds the pipe has ended
        assert time.monotonic() - started < 30


def test_a_reader_that_stops_early(package: Path) -> None:
    command = f"{sys.executable} -m zenith_mlir.tools.zenith_opt --list-passes | head -c 1"
    done = subprocess.run(command, shell=True, env=environment(package), capture_output=True, timeout=60)
    assert done.stderr == b""


def test_split_files_and_bytecode(opt: Opt, tmp_path: Path) -> None:
    (tmp_path / "in.mlir").write_text(f"{TEXT}\n// -----\n{TEXT}")
    done = opt("in.mlir", "--split-input-file", "--pass", "cse")
    assert done.stdout.count("// -----\n") == 1
    assert done.stdout.count("stablehlo.sine") == 2
    assert "holds one module" in error_of(opt("in.mlir", "--split-input-file", "--emit-bytecode"))
    assert "in.mlir:9:1: redefinition" in error_of(opt("in.mlir"))


def test_certify(opt: Opt, tmp_path: Path) -> None:
    (tmp_path / "att.py").write_text(
        textwrap.dedent("""
        import jax
        def attention(q, k, v):
            return jax.nn.softmax(q @ k.swapaxes(-1, -2) * 0.125, axis=-1) @ v
        """)
    )
    arguments = [word for _ in range(3) for word in ("--arg", "f32[2,256,64]")]
    assert opt("--trace", "att:attention", *arguments, "-o", "a.mlir", tool="zenith_translate").returncode == 0
    done = opt("a.mlir", "--pass", "default", "--certify", "-o", "/dev/null")
    assert (done.returncode, done.stdout) == (0, "")
    assert "zenith.attention: sound" in done.stderr


def test_main_runs_in_this_process_once_jaxlib_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.mlir").write_text(TEXT)
    assert zenith_opt.main([str(tmp_path / "in.mlir"), "-o", str(tmp_path / "out.mlir"), "--pass", "cse"]) == 0
    assert (tmp_path / "out.mlir").read_text().count("stablehlo.sine") == 1
    assert zenith_opt.main([str(tmp_path / "nothing.mlir")]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_start_up_imports_little() -> None:
    code = "import sys; from zenith_mlir.tools import zenith_opt\n"
    code += "try: zenith_opt.main(['--version'])\nexcept SystemExit: pass\n"
    code += "print({'jax', 'jaxlib', 'rich', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1] == "set()"
    code = "import sys, zenith_mlir; zenith_mlir.load('module {}').text(); print('jax' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
