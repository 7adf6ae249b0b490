"""A worker process of a comparison on a Ray cluster."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import IO, Any

from dpft.compare.cells import Cell
from dpft.compare.events import Outcome
from dpft.compare.folder import ComparisonFolder
from dpft.compare.planning import Placement
from dpft.compare.running.run_cell import run_cell
from dpft.compare.running.work import Work
from dpft.machine.memo import CachingMemo
from dpft.progress import Progress

REPORT_INTERVAL = 0.5  # seconds between two reports of steps


class Worker:
    """Runs cells in a Ray process."""

    def __init__(self, folder: str, home: str, place: Placement, threads: int, events: Any) -> None:
        self.home, self.threads, self.events = home, threads, events
        self.work = Work(ComparisonFolder(Path(folder)), place, CachingMemo())
        self.held: IO[str] | None = None

    def ready(self) -> tuple[str, str] | str:
        """`facts` that must be equal on all machines, or an error message."""
        import torch

        torch.set_num_threads(self.threads)
        try:
            os.chdir(self.home)
            self.held = self.work.folder.joined()
            return facts(self.work.folder)
        except OSError as error:
            return f"no folder to work in ({error.strerror})"

    def do(self, cell: Cell, number: int) -> Outcome:
        return run_cell(self.work, cell, ForwardedProgress(self.events, number))


class ForwardedProgress(Progress):
    """Forwards the progress of a run to the driver. A missing listener is no error."""

    def __init__(self, events: Any, number: int) -> None:
        self.events, self.number, self.last = events, number, 0.0

    def stage(self, text: str) -> None:
        self._forward("stage", text)

    def note(self, text: str) -> None:
        self._forward("note", text)

    def started(self, done: int, steps: int) -> None:
        self._forward("started", done, steps)

    def stepped(self, done: int, epsilon: float | None) -> None:
        if time.monotonic() - self.last >= REPORT_INTERVAL:
            self.last = time.monotonic()
            self._forward("stepped", done, epsilon)

    def ended(self) -> None:
        self._forward("ended")

    def _forward(self, what: str, *words: Any) -> None:
        with contextlib.suppress(Exception):
            self.events.put_nowait((self.number, what, words))


def facts(folder: ComparisonFolder) -> tuple[str, str]:
    """The version of dpft, and the digest of the plan in the folder."""
    from importlib.metadata import version

    file = folder.path / "comparison.json"
    return f"dpft {version('dpft')}", hashlib.sha256(file.read_bytes() if file.is_file() else b"").hexdigest()
