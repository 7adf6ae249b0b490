"""`dpft` on several ranks that die, hang or differ: everything is loaded once, then forked. Run as a module.

argv: a JSON object with `ledger`, `runs`, `releases` (a file) and `jobs`. A job: `words` after `dpft` ("RUN": the
newest run), `ranks` (0: one process without torchrun), `at` (which rank, which moment, in which step), `patience` in
seconds. Prints a JSON list: of each job its exit codes, stdout, stderr, seconds and what ledger and releases then say.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tests.killing import answer, arm, before, count_releases, die, prepare, state


def freeze(*_words: Any) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def misfit(moment: str, step: int) -> None:
    """Have this process die, hang or differ from the others."""
    from dpft import tasks
    from dpft.errors import UserError
    from dpft.privacy.mechanism.step import SharedStep

    load = tasks.load

    def refuse(*_words: Any) -> None:
        raise UserError("the data must be readable, got a locked file; unlock it")

    def flipped(spec: Any) -> Any:
        task = load(spec)
        labels = 1 - task.train.labels
        return dataclasses.replace(task, train=dataclasses.replace(task.train, labels=labels))

    def differ() -> None:
        tasks.load = flipped  # type: ignore[assignment]

    def forget(*_words: Any) -> None:
        die()

    moments: dict[str, Callable[[], None]] = {
        "mid-backward": lambda: before(SharedStep, "_sum", lambda self, _: before(self, "clipper", forget), step),
        "hangs": lambda: before(SharedStep, "_sum", freeze, step),
        "has no data": lambda: before(tasks, "load", refuse),
        "has other data": differ,
    }
    moments.get(moment, lambda: arm(moment, step))()


def child(rank: int, port: int, job: dict[str, Any], asked: dict[str, Any]) -> None:
    """One rank, as torchrun would start it."""
    from dpft.cli import main

    from dpft.machine import launch

    count = job["ranks"]
    if count:
        os.environ.update(
            TORCHELASTIC_RUN_ID="test", TORCHELASTIC_RESTART_COUNT=str(job.get("restarts", 0)), RANK=str(rank),
            WORLD_SIZE=str(count), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True",
        )  # fmt: skip
    launch._PATIENCE = timedelta(seconds=job.get("patience", 120))
    count_releases(Path(asked["releases"]))
    where = job.get("at")
    if where and where[0] == rank:
        misfit(where[1], where[2])
    runs = sorted(Path(asked["runs"]).glob("*"), key=lambda path: path.stat().st_mtime)
    sys.argv = ["dpft", *(str(runs[-1]) if word == "RUN" else word for word in job["words"])]
    main()


def started(rank: int, port: int, job: dict[str, Any], asked: dict[str, Any]) -> int:
    process = os.fork()
    if process:
        return process
    for name in ("stdout", "stderr"):
        file = os.open(_said(asked, rank, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1 if name == "stdout" else 2)
    try:
        child(rank, port, job, asked)
    except SystemExit as done:
        sys.stdout.flush()
        os._exit(int(done.code or 0))
    finally:
        os._exit(9)


def _said(asked: dict[str, Any], rank: int, name: str) -> Path:
    return Path(asked["releases"]).with_name(f"{name}-{rank}")


def done(processes: list[int], frozen: int | None) -> list[int]:
    """Their exit codes; minus the signal's number where one ended them. The `frozen` one, and who hangs, is killed."""
    codes: dict[int, int] = {}
    awaited = {process for number, process in enumerate(processes) if number != frozen}
    until = time.monotonic() + 280
    while not awaited <= codes.keys() and time.monotonic() < until:
        for process in processes:
            if process not in codes:
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    codes[process] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for process in processes:
        if process not in codes:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    return [codes.get(process, -9) for process in processes]


def outcome(job: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # torchrun keeps it, no rank does
    count, began = max(1, job["ranks"]), time.monotonic()
    processes = [started(rank, store.port, job, asked) for rank in range(count)]
    rank, moment, _ = job.get("at", [None, None, None])
    codes = done(processes, rank if moment == "hangs" else None)
    said = {name: [_said(asked, rank, name).read_text() for rank in range(count)] for name in ("stdout", "stderr")}
    return {"codes": codes, **said, "seconds": time.monotonic() - began, "runs": state(asked)}


def main() -> None:
    asked = json.loads(sys.argv[1])
    prepare()
    whole, *others = asked["jobs"]
    outcomes = [outcome(whole, asked)]
    answer(Path(asked["runs"]))
    print(json.dumps(outcomes + [outcome(job, asked) for job in others]))


if __name__ == "__main__":
    main()
