"""Runs a command line in a child process, so that native code which aborts is one clear error and not a dead
tool.
"""

from __future__ import annotations

import argparse
import mmap
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from zenith_mlir.errors import ZenithError

__all__ = ["OneLineParser", "Progress", "fail", "isolated"]


class OneLineParser(argparse.ArgumentParser):
    """One line and status 1 for a bad command line, as for every other error."""

    def error(self, message: str) -> NoReturn:
        sys.exit(fail(self.prog, f"{message} ({self.prog} --help lists the options)"))


class Progress:
    """What the child is doing, readable by the parent after the child's death."""

    SIZE = 512

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, self.SIZE)

    def __call__(self, doing: str) -> None:
        self._shared.seek(0)
        self._shared.write(doing.encode()[: self.SIZE].ljust(self.SIZE, b"\0"))

    def __str__(self) -> str:
        return self._shared[:].rstrip(b"\0").decode(errors="ignore") or "starting"


def isolated(program: str, work: Callable[[Progress], int], on_death: Callable[[], None] = lambda: None) -> int:
    """The exit status of `work`, run in a fork of this process.

    A `ZenithError` becomes one line on standard error and status 1, and so does a death by a signal;
    `on_death` is then called here. Where threads may exist already (jaxlib is imported) or fork does not,
    `work` runs in this process.
    """
    progress = Progress()
    if not hasattr(os, "fork") or "jaxlib" in sys.modules:
        return _attempt(program, work, progress)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _die_with(parent)
        _leave(_attempt(program, work, progress))
    status = _wait(child)
    if not os.WIFSIGNALED(status):
        return os.WEXITSTATUS(status)
    number = signal.Signals(os.WTERMSIG(status))
    if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # somebody wanted it
        return 128 + number
    on_death()
    return fail(program, f"native code died ({number.name}) while {progress}; the input is damaged, or this is a bug")


def fail(program: str, message: str) -> int:
    """Print one line, and give the exit status of an error."""
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return 1


def _attempt(program: str, work: Callable[[Progress], int], progress: Progress) -> int:
    try:
        status = work(progress)
        sys.stdout.flush()
        return status
    except ZenithError as error:
        return fail(program, str(error))
    except MemoryError:
        return fail(program, f"out of memory while {progress}")
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return 130


def _leave(status: int) -> NoReturn:
    """Exit without clean-up: damaged input can leave native destructors nothing good to do."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _wait(child: int) -> int:
    """Wait for the child.

    A termination is passed on, and so is Ctrl-C: a second one ends native code that does not listen.
    """
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    wanted = iter([signal.SIGINT])
    while True:
        try:
            return os.waitpid(child, 0)[1]
        except KeyboardInterrupt:
            os.kill(child, next(wanted, signal.SIGKILL))


def _die_with(parent: int) -> None:
    """Ask Linux to end this process when its parent is killed."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
