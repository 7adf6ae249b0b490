"""Events of a comparison, for a listener: the command line draws them, the library ignores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from dpft.compare.cells import Cell
from dpft.progress import Progress
from dpft.runs.result import Result

How = Literal["trained", "resumed", "found", "failed"]


@dataclass(frozen=True)
class Outcome:
    """The end of a cell: its result, or an error of one line."""

    cell: Cell
    result: Result | None
    error: str | None
    how: How


class Listener(Protocol):
    """Listener for the events of a comparison. Nothing passed here depends on training rows."""

    def stage(self, text: str) -> None:
        """A slow part of planning begins."""

    def began(self, cell: Cell, number: int, count: int) -> Progress:
        """Cell `number` (from 1) of `count` begins. Returns the listener for its run."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """The cell is over."""


class SilentListener:
    """A listener that ignores all events."""

    def stage(self, text: str) -> None: ...

    def began(self, cell: Cell, number: int, count: int) -> Progress:
        return Progress()

    def ended(self, outcome: Outcome) -> None: ...
