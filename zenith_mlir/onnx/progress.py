"""Steps of an export: how long each took, and a line on the terminal for those who wait."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["Steps"]

# Exports that take less show nothing.
_PATIENCE = 1.0


class Steps:
    """Called with the name of each step as it begins; `seconds` has what the finished ones took.

    `show` None is a terminal on standard error.
    """

    def __init__(self, show: bool | None = None):
        self.seconds: dict[str, float] = {}
        self._show = sys.stderr.isatty() if show is None else show
        self._begin = time.perf_counter()
        self._current: tuple[str, float] | None = None
        self._bar: Any = None

    def __call__(self, doing: str) -> None:
        self._finish()
        self._current = doing, time.perf_counter()
        if self._bar is None and self._show and time.perf_counter() - self._begin > _PATIENCE:
            self._bar = _bar()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=doing)

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish()
        if self._bar is not None:
            self._bar.stop()

    def _finish(self) -> None:
        if self._current is not None:
            name, begin = self._current
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
            self._current = None


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task("", total=None)
    bar.start()
    return bar
