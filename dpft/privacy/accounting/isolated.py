"""Run function calls in separate processes with limits on time and memory. A call that hangs or dies is skipped.

Each process is a new interpreter, not a fork: a fork would copy the locks of the caller's threads (torch, BLAS).
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

Call = tuple[str, list[Any]]  # "package.module:function", and its JSON-serialisable arguments

MEMORY = 4 * 2**30  # address space per call in bytes; beyond it the call gets a MemoryError, instead of the OOM killer
_CHILD = "from dpft.privacy.accounting.isolated import _answer; _answer()"


def run(calls: Mapping[str, Call], seconds: float) -> dict[str, Any]:
    """Run all calls in parallel. Returns each result by name; None for a call that failed or exceeded `seconds`.

    A result must be JSON; None, NaN and infinity count as failures.
    """
    deadline = time.monotonic() + seconds
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, call in calls.items():
            started[name] = _start(call)
        return {name: _result(process, deadline) for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.communicate()


def _start(call: Call) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, json.dumps(call)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    return process


def _result(process: subprocess.Popen[bytes], deadline: float) -> Any:
    try:
        ended = process.poll() is not None  # it ended while another was waited for; its answer is in the pipe
        out, _ = process.communicate(timeout=max(deadline - time.monotonic(), 1.0 if ended else 0.0))
        return json.loads(out.splitlines()[-1], parse_constant=lambda _: None) if process.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return None


def _answer() -> None:
    """In the child process: run the call given on the command line and print its result as the last line."""
    _limit_memory()
    target, arguments = json.loads(sys.argv[-1])
    module, _, function = target.partition(":")
    print("\n" + json.dumps(getattr(importlib.import_module(module), function)(*arguments)))


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, OSError, ValueError):  # not supported everywhere; the time limit still holds
        return
