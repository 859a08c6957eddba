"""Keeps off the user's terminal what native code prints there instead of reporting it."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator

__all__ = ["captured_stderr"]

_lock = threading.Lock()


@contextlib.contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Catch file descriptor 2 of the process; its lines are in the list once the block is left."""
    printed: list[str] = []
    with _lock, tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield printed
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            printed += file.read().decode(errors="replace").splitlines()
