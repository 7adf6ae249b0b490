"""Where a comparison is told about: the command line draws it, the library stays silent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from dpft.compare.cells import Cell
from dpft.progress import Progress
from dpft.runs.result import Result

How = Literal["trained", "resumed", "found", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: its result, or one line of why there is none."""

    cell: Cell
    result: Result | None
    error: str | None
    how: How


class Watch(Protocol):
    """What a comparison tells of itself. Nothing passed here depends on training rows."""

    def stage(self, text: str) -> None:
        """Something of the plan takes a while."""

    def began(self, cell: Cell, number: int, count: int) -> Progress:
        """Cell `number` (from 1) of `count` begins. What is told of its run."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """It is over."""


class Silent:
    """Shows nothing."""

    def stage(self, text: str) -> None: ...

    def began(self, cell: Cell, number: int, count: int) -> Progress:
        return Progress()

    def ended(self, outcome: Outcome) -> None: ...
