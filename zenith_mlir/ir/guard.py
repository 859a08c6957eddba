"""Damaged bytecode can abort the process inside MLIR's reader. Here it is read by a process that may die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from zenith_mlir.errors import ReadError

__all__ = ["check"]

_REFUSED = 3


def check(data: bytes, name: str) -> None:
    """Return if another process can read `data`. What it cannot read is kept away from this one: even where
    MLIR reports an error, damaged bytecode can leave the heap corrupted.

    Raises:
        ReadError: with the other process's message, or if reading aborts, or takes more than two minutes.
    """
    # Not a fork: a process that runs JAX has threads, and their locks would stay taken in the child.
    command = [sys.executable, "-c", "from zenith_mlir.ir import guard; guard.main()", name]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        child = subprocess.run(command, input=data, env=environment, capture_output=True, timeout=120)
    except subprocess.TimeoutExpired:
        raise ReadError(f"{name}: damaged bytecode: reading it does not end") from None
    if child.returncode == _REFUSED:
        raise ReadError(child.stdout.decode())
    if child.returncode < 0:
        died = signal.Signals(-child.returncode).name
        raise ReadError(f"{name}: damaged bytecode: MLIR's reader dies on it ({died})")


def main() -> None:
    """The other process: read standard input, print what is wrong with it."""
    from zenith_mlir.ir import serialize
    from zenith_mlir.ir.context import make_context

    try:
        serialize.read(sys.stdin.buffer.read(), make_context(), sys.argv[1], isolated=True)
    except ReadError as error:
        os.write(1, str(error).encode())
        os._exit(_REFUSED)  # without the clean-up that a damaged heap might not survive
