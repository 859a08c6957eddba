"""What an sdist, a wheel and a checkout hold: the libraries folders under both names, the kernels, the programs.

The wheel is built from the sdist, so that a file lost on the way shows. The build backend is the installed
scikit-build-core: nothing is fetched.
"""

import configparser
import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from zenith_mlir.kernels.cpu import library

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
FOLDERS = ("passes", "dialects", "kernels", "tools")


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("scikit_build_core")
    folder = tmp_path_factory.mktemp("sdist")
    code = f"import scikit_build_core.build as b; print('made', b.build_sdist({str(folder)!r}))"
    run = python("-c", code, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / run.stdout.split("made ")[-1].strip()


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    code = f"import scikit_build_core.build as b; print('made', b.build_wheel({str(folder)!r}))"
    # Kernels that nobody waits for compile in a tenth of the time.
    run = python("-c", code, cwd=source, CMAKE_ARGS="-DZENITH_OPTIMISE=-O0")
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / run.stdout.split("made ")[-1].strip()


def test_sdist_keeps_the_symlinks_and_sources(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = {member.name.split("/", 1)[1]: member for member in archive if "/" in member.name}
    for folder in FOLDERS:
        assert members[f"zenith_mlir/{folder}"].linkname == f"../{folder}"
        assert f"{folder}/__init__.py" in members
    assert {"CMakeLists.txt", "LICENSE", "README.md", "kernels/cpu/attention.cc", "kernels/cpu/vec.h"} <= set(members)
    assert not [name for name in members if name.startswith((".venv", "build/", "dist/")) or name.endswith(".so")]


def test_wheel_serves_every_python_3_and_holds_the_kernels(wheel: Path) -> None:
    assert wheel.name.startswith("zenith_mlir-") and "-py3-none-" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"zenith_mlir/{folder}/__init__.py" for folder in FOLDERS} <= names
    assert {"zenith_mlir/kernels/cpu/libzenith_cpu.so", "zenith_mlir_autoload.pth"} <= names
    assert not [name for name in names if name.endswith((".cc", ".h", ".map"))]
    assert not [name for name in names if name.split("/")[0] in (*FOLDERS, "test", "examples")]


def test_wheel_names_the_programs_and_the_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        scripts = configparser.ConfigParser()
        scripts.read_string(archive.read(f"{info}/entry_points.txt").decode())
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    for program in ("opt", "run", "translate"):
        assert scripts["console_scripts"][f"zenith-{program}"] == f"zenith_mlir.tools.zenith_{program}:main"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"


def test_unpacked_wheel_runs_a_kernel(wheel: Path, tmp_path: Path) -> None:
    """From an empty folder and without site's .pth files: a checkout installed as editable would come first."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import jax, numpy as np, zenith_mlir.passes, zenith_mlir.tools.zenith_opt\n"
        "from zenith_mlir.kernels.cpu import library\n"
        "from zenith_mlir.kernels.cpu.attention import attention_call\n"
        "x = np.ones((1, 2), np.float32)\n"
        "s = dict.fromkeys(['q_strides', 'k_strides', 'v_strides', 'out_strides'], [2, 1])\n"
        "print(attention_call(x, x, x, dims=[], sizes=(1, 1, 2, 2), **s, out_shape=(1, 2), out_dtype='float32'))\n"
        "print(library.load()._name)"
    )
    run = python("-S", "-c", code, cwd=tmp_path, PYTHONPATH=os.pathsep.join([str(site), *sys.path]))
    assert run.stdout.splitlines() == ["[[1. 1.]]", str(site / "zenith_mlir/kernels/cpu/libzenith_cpu.so")], run.stderr


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_are_not_modules_of_their_own(folder: str) -> None:
    run = python("-c", f"import {folder}", cwd=ROOT, PYTHONPATH="")
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1] == f"ImportError: import zenith_mlir.{folder} instead of {folder}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_are_linked_into_the_library(folder: str) -> None:
    assert os.readlink(ROOT / "zenith_mlir" / folder) == f"../{folder}"


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm lists the symbols")
def test_only_the_handlers_are_exported() -> None:
    """Anything else could be taken for, or replaced by, a symbol of XLA's or of another library."""
    run = subprocess.run(
        ["nm", "-D", "--defined-only", library.load()._name], capture_output=True, text=True, check=True
    )
    exported = {line.split()[-1] for line in run.stdout.splitlines()}
    assert exported == {*library.TARGETS, "zenith_cpu_isa", "zenith_cpu_peak", "zenith_vec_math"}
