"""Runs every .mlir file below by its RUN lines.

From a checkout: `lit -v test/lit`. The programs are those of the checkout this file lies in, run by the Python
that runs lit; ZENITH_TEST_INSTALLED=1 takes the installed ones instead.
"""

# ruff: noqa: F821  # lit gives `config` and `lit_config`
import os
import shutil
import sys

import lit.formats

config.name = "zenith"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir", ".test"]
config.excludes = ["Inputs"]
config.test_source_root = os.path.dirname(__file__)
config.test_exec_root = os.path.join(config.test_source_root, "Output")

checkout = os.path.dirname(os.path.dirname(config.test_source_root))
scripts = os.path.dirname(sys.executable)
path = os.pathsep.join([scripts, config.environment.get("PATH", "")])
config.environment["PATH"] = path
config.environment["COLUMNS"] = "120"  # of rich's tables
for name in ("HOME", "TMPDIR", "LD_LIBRARY_PATH", "XLA_FLAGS", "JAX_PLATFORMS"):
    if name in os.environ:
        config.environment[name] = os.environ[name]

installed = os.environ.get("ZENITH_TEST_INSTALLED") == "1"
if not installed:
    config.environment["PYTHONPATH"] = checkout


def program(name):
    """The command that runs one of our programs."""
    if not installed:
        return f"'{sys.executable}' -m zenith_mlir.tools.{name.replace('-', '_')}"
    return shutil.which(name, path=path) or lit_config.fatal(f"{name} is not installed beside {sys.executable}")


filecheck = shutil.which("filecheck", path=path) or lit_config.fatal("missing: pip install filecheck")
for name in ("zenith-opt", "zenith-report", "zenith-run", "zenith-translate"):
    config.substitutions.append((f"%{name.replace('-', '_')}", program(name)))
    # `zenith-opt %s` reads as one types it; the guards keep paths such as zenith-opt/split.mlir whole.
    config.substitutions.append((rf"(?<![\w./-]){name}(?![\w./-])", program(name)))
config.substitutions.append((r"(?<![\w./-])(FileCheck|filecheck)(?![\w./-])", filecheck))
config.substitutions.append(("%python", f"'{sys.executable}'"))
config.substitutions.append(("%corpus", os.path.join(config.test_source_root, "..", "corpus")))
