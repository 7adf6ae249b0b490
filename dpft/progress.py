"""Progress callbacks. The command line shows them; the library is silent by default."""

from __future__ import annotations

from pathlib import Path


class Progress:
    """Callbacks that do nothing; subclasses show them. Nothing passed here depends on the training rows."""

    def stage(self, text: str) -> None:
        """A stage that takes a while begins."""

    def note(self, text: str) -> None:
        """A note on this run that the user should read."""

    def created(self, path: Path) -> None:
        """The run folder exists: from now on `resume` can finish the run."""

    def started(self, done: int, steps: int) -> None:
        """Training begins, with `done` of `steps` steps already taken."""

    def stepped(self, done: int, epsilon: float | None) -> None:
        """`done` steps are taken. `epsilon` bounds the privacy spent so far; None if the run is not private."""

    def ended(self) -> None:
        """Training has ended or was interrupted."""
