"""Where a long wait is told about: the command line draws it, the library stays silent."""

from __future__ import annotations

from pathlib import Path


class Progress:
    """Silence. Subclasses show it. Nothing passed here depends on the training rows."""

    def stage(self, text: str) -> None:
        """Something that takes a while begins."""

    def note(self, text: str) -> None:
        """Something that the user should know of this run."""

    def created(self, path: Path) -> None:
        """The run's folder is made: from here on `resume` can finish it."""

    def started(self, done: int, steps: int) -> None:
        """Training begins at step `done` of `steps`."""

    def stepped(self, done: int, epsilon: float | None) -> None:
        """`done` steps are taken; `epsilon` bounds the privacy spent so far, None where nothing is private."""

    def ended(self) -> None:
        """Training is over, or broken off."""
