"""One peer in a process of its own: reads requests as JSON lines, answers each with a line.

{"prepare": name}   builds and warms up the case of that name: {"ready": true} or {"refused": why}
{"time": seconds}   runs it about that long: {"ms": the mean of a call}
{"describe": true}  what runs here: {"version": text}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any


def main() -> None:
    name, cores = sys.argv[1], [int(core) for core in sys.argv[2].split(",")]
    os.sched_setaffinity(0, cores)  # before the framework starts its threads
    answers, sys.stdout = sys.stdout, sys.stderr  # what a framework prints is no answer
    peer = import_module(f"peers.{name}")
    from cases import cases, family_of

    by_name = {str(case): case for case in cases()}
    call: Callable[[], Any] = lambda: None  # noqa: E731
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "describe" in request:
                answer: dict[str, Any] = {"version": peer.version(len(cores))}
            elif "prepare" in request:
                case = by_name[request["prepare"]]
                call = peer.prepare(family_of(case), case, len(cores))
                call()
                call()
                answer = {"ready": True}
            else:
                answer = {"ms": _mean(call, request["time"])}
        except Exception as error:
            answer = {"refused": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        print(json.dumps(answer), file=answers, flush=True)


def _mean(call: Callable[[], Any], seconds: float) -> float:
    start = time.perf_counter()
    calls = 0
    while calls == 0 or time.perf_counter() - start < seconds:
        call()
        calls += 1
    return (time.perf_counter() - start) * 1e3 / calls


if __name__ == "__main__":
    main()
