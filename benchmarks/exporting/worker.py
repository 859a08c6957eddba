"""A process that does one thing after the other, and that may crash or hang."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class Crashed(Exception):
    """The process ended without an answer, or the function raised."""


class Worker:
    """Runs functions in a process of its own, on one core, with what `setup` makes there as their first argument.

    The process starts at the first call and again after a crash or a call that took too long.
    """

    def __init__(self, setup: Callable[[], Any], core: int, patience: float = 300.0) -> None:
        self._setup, self._core, self._patience = setup, core, patience
        self._process: Any = None
        self._connection: Any = None

    def call(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """What function(setup(), *arguments) gives.

        Raises:
          TimeoutError: it took longer than `seconds`.
          Crashed: the process ended, or the function raised.
        """
        if self._process is None or not self._process.is_alive():
            self.stop()
            self._start()
        self._connection.send((function, arguments))
        return self._answer(seconds)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self._setup, self._core), daemon=True)
        self._process.start()
        other.close()
        self._answer(self._patience)

    def _answer(self, seconds: float) -> Any:
        try:
            answered = self._connection.poll(seconds)
            answer, error = self._connection.recv() if answered else (None, "")
        except (EOFError, ConnectionError):
            self._process.join(5)
            code = self._process.exitcode
            self.stop()
            raise Crashed(f"the process ended, exit code {code}") from None
        if not answered:
            self.stop()
            raise TimeoutError(f"no answer in {seconds:.0f} s")
        if error:
            raise Crashed(error)
        return answer


def _serve(connection: Connection, setup: Callable[[], Any], core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    state, error = _attempt(setup)
    connection.send((None, error))
    while not error:
        function, arguments = connection.recv()
        connection.send(_attempt(function, state, *arguments))


def _attempt(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    try:
        return function(*arguments), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
