"""What a comparison's worker process on a Ray cluster does, and how those of one comparison keep from another's."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from pathlib import Path
from typing import IO, Any

from dpft.compare.cells import Cell
from dpft.compare.folder import Folder
from dpft.compare.planning import Place
from dpft.compare.watch import Outcome
from dpft.compare.work import Work
from dpft.progress import Progress
from dpft.shelf import Kept
from dpft.spec import UserError

TOLD = 0.5  # seconds between two words of a step
_PATIENCE = 60.0  # seconds for the workers of a killed comparison to be gone


class Worker:
    """In a process of Ray's."""

    def __init__(self, folder: str, home: str, place: Place, threads: int, events: Any) -> None:
        self.home, self.threads, self.events = home, threads, events
        self.work = Work(Folder(Path(folder)), place, Kept())
        self.held: IO[str] | None = None

    def ready(self) -> tuple[str, str] | str:
        """What must be the same everywhere, or why it cannot be."""
        import torch

        torch.set_num_threads(self.threads)
        try:
            os.chdir(self.home)
            self.held = _at_work(self.work.folder)
            fcntl.flock(self.held, fcntl.LOCK_SH)
            return facts(self.work.folder)
        except OSError as error:
            return f"no such folder ({error.strerror})"

    def do(self, cell: Cell, number: int) -> Outcome:
        return self.work(cell, Told(self.events, number))


class Told(Progress):
    """Words of a run that are passed on to where the comparison is watched. That nobody listens breaks nothing."""

    def __init__(self, events: Any, number: int) -> None:
        self.events, self.number, self.last = events, number, 0.0

    def stage(self, text: str) -> None:
        self._pass("stage", text)

    def note(self, text: str) -> None:
        self._pass("note", text)

    def started(self, done: int, steps: int) -> None:
        self._pass("started", done, steps)

    def stepped(self, done: int, epsilon: float | None) -> None:
        if time.monotonic() - self.last >= TOLD:
            self.last = time.monotonic()
            self._pass("stepped", done, epsilon)

    def ended(self) -> None:
        self._pass("ended")

    def _pass(self, what: str, *words: Any) -> None:
        with contextlib.suppress(Exception):
            self.events.put_nowait((self.number, what, words))


def facts(folder: Folder) -> tuple[str, str]:
    """This dpft, and the plan as it lies in the folder."""
    from importlib.metadata import version

    file = folder.path / "comparison.json"
    return f"dpft {version('dpft')}", hashlib.sha256(file.read_bytes() if file.is_file() else b"").hexdigest()


def _at_work(folder: Folder) -> IO[str]:
    return open(folder.path / ".at-work", "a")


def wait_for_workers(folder: Folder) -> None:
    """Those of a comparison that was killed end with it, if not at once; two must never be at one run."""
    until = time.monotonic() + _PATIENCE
    with _at_work(folder) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if time.monotonic() > until:
                    raise UserError(
                        f"one comparison works in a folder, got workers of another in {str(folder.path)!r}; "
                        "wait for them, or stop them on the cluster"
                    ) from None
                time.sleep(0.2)
