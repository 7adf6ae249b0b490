"""Runs that break off."""

from __future__ import annotations

from pathlib import Path

from dpft.progress import Progress


class StopAt(Progress):
    """Breaks off after step `step`, as a power cut would after a save; at 0, before the first. Keeps what it heard."""

    def __init__(self, step: int) -> None:
        self.step, self.path = step, Path()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def created(self, path: Path) -> None:
        self.path = path

    def started(self, done: int, steps: int) -> None:
        if self.step == 0:
            raise KeyboardInterrupt

    def stepped(self, done: int, epsilon: float | None) -> None:
        if done == self.step:
            raise KeyboardInterrupt
