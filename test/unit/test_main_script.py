"""`python -m zenith_mlir script.py` and `ZENITH_PIPELINE=... python script.py`, on scripts that know nothing
of it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]

# Traced as two sines; the native pass cse leaves one, and so shows that a pipeline ran.
SINES = """
import jax
f = jax.jit(lambda x: jax.numpy.sin(x) + jax.numpy.sin(x))
print(f.lower(1.0).as_text().count("stablehlo.sine"))
"""


def run(*arguments, cwd, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ZENITH_")}
    path = os.pathsep.join([str(ROOT), environment.pop("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**clean, "PYTHONPATH": path, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def zenith(*arguments, cwd, **environment):
    return run("-m", "zenith_mlir", *arguments, cwd=cwd, **environment)


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


@pytest.fixture
def site(tmp_path):
    """A PYTHONPATH entry that makes a folder with our .pth file a site folder, as site-packages is."""
    write(tmp_path, "site/zenith_mlir_autoload.pth", (ROOT / "zenith_mlir/autoload.pth").read_text())
    write(tmp_path, "start/sitecustomize.py", f"import site; site.addsitedir({str(tmp_path / 'site')!r})")
    return str(tmp_path / "start")


# ---- python -m zenith_mlir ----


def test_a_script_is_rewritten(tmp_path):
    script = write(tmp_path, "script.py", SINES)
    assert run(script, cwd=tmp_path).stdout == "2\n"
    done = zenith("--pipeline=cse", script, cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


def test_a_module_is_rewritten(tmp_path):
    write(tmp_path, "package/__init__.py", "")
    write(tmp_path, "package/tool.py", SINES)
    write(tmp_path, "package/__main__.py", "from . import tool")
    for name in ("package.tool", "package"):
        assert zenith("--pipeline", "cse", "-m", name, cwd=tmp_path).stdout == "1\n"


SHOW = """
import sys
print(__name__, __file__, __package__, sys.argv, sys.path[0], sys.modules["__main__"].__dict__ is globals())
"""


@pytest.mark.parametrize("arguments", [[], ["a", "--pipeline", "x", "-m", "--help", "--", "-"]])
def test_a_script_sees_what_python_shows_it(tmp_path, arguments):
    write(tmp_path, "folder/script.py", SHOW)
    plain = run("folder/script.py", *arguments, cwd=tmp_path)
    ours = zenith("--pipeline=cse", "folder/script.py", *arguments, cwd=tmp_path)
    assert plain.returncode == 0
    assert ours.stdout == plain.stdout


def test_a_module_sees_what_python_shows_it(tmp_path):
    write(tmp_path, "package/__init__.py", "")
    write(tmp_path, "package/tool.py", SHOW + "print(__spec__.name)")
    plain = run("-m", "package.tool", "--help", cwd=tmp_path)
    ours = zenith("--pipeline=cse", "-m", "package.tool", "--help", cwd=tmp_path)
    assert ours.stdout == plain.stdout
    assert plain.stdout.endswith("package.tool\n")


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("sys.exit(7)", 7),
        ("sys.exit()", 0),
        ("sys.exit('no luck')", 1),
        ("raise SystemExit(None)", 0),
        ("1/0", 1),
    ],
)
def test_exit_status_and_standard_error(tmp_path, ending, status):
    script = write(tmp_path, "script.py", f"import sys\ndef f():\n    {ending}\nf()\n")
    plain, ours = run(script, cwd=tmp_path), zenith("--pipeline=cse", script, cwd=tmp_path)
    assert ours.returncode == plain.returncode == status
    assert ours.stderr == plain.stderr  # tracebacks begin with the script's own frames


def test_a_syntax_error_is_reported_as_ever(tmp_path):
    script = write(tmp_path, "script.py", "x = = 1\n")
    plain, ours = run(script, cwd=tmp_path), zenith("--pipeline=cse", script, cwd=tmp_path)
    assert (ours.returncode, ours.stderr) == (plain.returncode, plain.stderr)


def test_main_can_be_pickled_and_used_after_the_end(tmp_path):
    script = write(
        tmp_path,
        "script.py",
        """
        import atexit, pickle
        class A: pass
        value = "still here"
        atexit.register(lambda: print(value))
        print(type(pickle.loads(pickle.dumps(A()))) is A)
        """,
    )
    assert zenith("--pipeline=cse", script, cwd=tmp_path).stdout == "True\nstill here\n"


def test_jax_is_left_for_the_script_to_import(tmp_path):
    script = write(
        tmp_path,
        "script.py",
        """
        import os, sys
        print("jax" in sys.modules)
        os.environ["JAX_ENABLE_X64"] = "1"
        import jax
        print(jax.numpy.zeros(1).dtype)
        """,
    )
    assert zenith("--pipeline=cse", script, cwd=tmp_path).stdout == "False\nfloat64\n"


def test_worker_processes_follow(tmp_path, site):
    script = write(
        tmp_path,
        "script.py",
        """
        import multiprocessing, sys
        def count(x):
            import jax
            f = jax.jit(lambda x: jax.numpy.sin(x) + jax.numpy.sin(x))
            return f.lower(x).as_text().count("stablehlo.sine")
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(count(1.0), pool.map(count, [1.0]))
        """,
    )
    done = zenith("--pipeline=cse", script, cwd=tmp_path, PYTHONPATH=site)
    assert done.stdout == "1 [1]\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pipeline=nonsense", "script.py"], "unknown pass nonsense"),
        (["--pipeline=cse", "--target=gpu9", "script.py"], "unknown target 'gpu9'"),
        (["--numerics=wild", "script.py"], "invalid choice: 'wild'"),
        (["--pipeline=cse", "missing.py"], "cannot read missing.py: No such file or directory"),
        (["--pipeline=cse", "."], "cannot read .: Is a directory"),
        (["--pipeline=cse", "-m", "missing.module"], "cannot run missing.module: No module named 'missing'"),
        (["--pipeline=cse", "-m", "missing"], "no module named missing"),
        (["--pipeline=cse", "-m", "json"], "a package needs a __main__.py"),
        ([], "required: program"),
    ],
)
def test_bad_command_lines(tmp_path, arguments, message):
    write(tmp_path, "script.py", "print('ran')")
    done = zenith(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_help_and_version(tmp_path):
    from zenith_mlir import __version__

    assert zenith("--version", cwd=tmp_path).stdout == f"zenith_mlir {__version__}\n"
    shown = zenith("--help", cwd=tmp_path).stdout
    for option in ("--pipeline", "--target", "--numerics", "--remarks", "--strict", "-m"):
        assert option in shown


# Its own passes, registered before jax is imported, when ZENITH_PIPELINE is read.
PASSES = """
from dataclasses import dataclass
from zenith_mlir.registry import Pass, register

@register("test-remark")
@dataclass(frozen=True)
class RemarkPass(Pass):
    "Says one thing of each kind."
    def run(self, module, ctx):
        ctx.passed(module.operation, "zenith.thing")
        reason = f"too small on {ctx.target} {ctx.numerics}"
        ctx.missed(module.operation, "zenith.thing", reason, "make it larger")

@register("test-fail")
@dataclass(frozen=True)
class FailPass(Pass):
    "Fails."
    def run(self, module, ctx):
        raise ValueError("boom")
"""


RUN = """
import zenith_mlir.hook, jax
print(jax.jit(lambda x: x + 1)(1.0))
"""


@pytest.mark.parametrize(("shown", "kinds"), [("all", {"passed", "missed"}), ("missed", {"missed"}), ("", set())])
def test_environment(tmp_path, shown, kinds):
    script = write(tmp_path, "script.py", PASSES + RUN)
    done = run(
        script,
        cwd=tmp_path,
        ZENITH_PIPELINE="test-remark",
        ZENITH_REMARKS=shown,
        ZENITH_TARGET="cpu:avx2",
        ZENITH_NUMERICS="exact",
    )
    assert done.returncode == 0, done.stderr
    assert {kind for kind in ("passed", "missed") if f"remark: [{kind}] test-remark" in done.stderr} == kinds
    assert ("too small on cpu:avx2 exact; make it larger" in done.stderr) == ("missed" in kinds)


def test_strict_in_the_environment(tmp_path):
    script = write(tmp_path, "script.py", PASSES + RUN)
    options = {"cwd": tmp_path, "ZENITH_PIPELINE": "test-fail", "ZENITH_REPRODUCER_DIR": str(tmp_path)}
    lenient = run(script, **options)
    assert (lenient.stdout, lenient.returncode) == ("2.0\n", 0)
    assert lenient.stderr.count("ZenithWarning: pass test-fail failed") == 1
    strict = run(script, ZENITH_STRICT="1", **options)
    assert (strict.stdout, strict.returncode) == ("", 1)
    assert "PassError: pass test-fail failed" in strict.stderr


def test_a_mistake_in_the_environment_stops_no_program_unless_strict(tmp_path):
    script = write(tmp_path, "script.py", SINES + "import zenith_mlir.hook")
    lenient = run(script, cwd=tmp_path, ZENITH_PIPELINE="nonsense")
    assert (lenient.stdout, lenient.returncode) == ("2\n", 0)
    assert "ZENITH_PIPELINE=nonsense is not applied: unknown pass nonsense" in lenient.stderr
    strict = run(script, cwd=tmp_path, ZENITH_PIPELINE="nonsense", ZENITH_STRICT="1")
    assert strict.returncode == 1
    assert "PipelineError: unknown pass nonsense" in strict.stderr


# ---- autoload: ZENITH_PIPELINE with nothing else ----


def test_the_variable_alone_rewrites_an_unmodified_script(tmp_path, site):
    script = write(tmp_path, "script.py", SINES)
    assert run(script, cwd=tmp_path, PYTHONPATH=site, ZENITH_PIPELINE="cse").stdout == "1\n"
    assert run(script, cwd=tmp_path, PYTHONPATH=site, ZENITH_PIPELINE="").stdout == "2\n"
    assert run(script, cwd=tmp_path, PYTHONPATH=site).stdout == "2\n"


def test_without_the_variable_nothing_is_imported(tmp_path, site):
    program = "import sys; print([m for m in sys.modules if m.startswith(('zenith', 'jax', 'numpy'))])"
    assert run("-c", program, cwd=tmp_path, PYTHONPATH=site).stdout == "[]\n"
    loaded = run("-c", program, cwd=tmp_path, PYTHONPATH=site, ZENITH_PIPELINE="cse").stdout
    assert loaded == "['zenith_mlir', 'zenith_mlir.autoload']\n"


def test_jax_is_imported_as_ever(tmp_path, site):
    program = """
        import sys, importlib.util, inspect, importlib.resources
        import jax
        assert not any(type(finder).__module__.startswith("zenith_mlir") for finder in sys.meta_path)
        assert "exec_module" not in vars(jax.__loader__)
        assert jax.__spec__.loader is jax.__loader__
        assert inspect.getsource(jax).startswith("#")
        assert importlib.resources.files("jax").joinpath("version.py").is_file()
        assert "zenith_mlir.hook" in sys.modules
        """
    done = run("-c", textwrap.dedent(program), cwd=tmp_path, PYTHONPATH=site, ZENITH_PIPELINE="cse")
    assert done.returncode == 0, done.stderr


def test_a_submodule_of_jax_first(tmp_path, site):
    script = write(tmp_path, "script.py", "import jax.numpy as jnp\nfrom jax import lax\n" + SINES)
    assert run(script, cwd=tmp_path, PYTHONPATH=site, ZENITH_PIPELINE="cse").stdout == "1\n"


def test_programs_without_jax_run_as_ever(tmp_path, site):
    program = """
        import sys
        sys.modules["jax"] = None
        try:
            import jax
        except ImportError:
            print("no jax")
        """
    done = run("-c", textwrap.dedent(program), cwd=tmp_path, PYTHONPATH=site, ZENITH_PIPELINE="cse")
    assert (done.stdout, done.stderr) == ("no jax\n", "")
