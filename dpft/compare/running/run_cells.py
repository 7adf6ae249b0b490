"""A comparison from its plan to its table: who does the cells, in which order, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dpft.compare.cells import Cell
from dpft.compare.events import Outcome, Watch
from dpft.compare.running import random_search
from dpft.compare.running.run_cell import run_cell
from dpft.compare.running.work import Work


class Executor(Protocol):
    """Does all cells, in whatever order and wherever, and tells of each. A full disk, or Ctrl-C, ends it."""

    def run(self, cells: Sequence[Cell], work: Work, watch: Watch) -> list[Outcome]: ...


class OneByOne:
    """One cell after the other in this process, so that they share what is on the shelf."""

    def run(self, cells: Sequence[Cell], work: Work, watch: Watch) -> list[Outcome]:
        outcomes = []
        for number, cell in enumerate(cells, 1):
            progress = watch.began(cell, number, len(cells))
            outcomes.append(run_cell(work, cell, progress))
            watch.ended(outcomes[-1])
        return outcomes


def conduct(cells: Sequence[Cell], work: Work, executor: Executor, watch: Watch) -> list[Outcome]:
    """Take up what was broken off, then do all cells. One process at a time works on a folder.

    Charged searches are reserved first and done last, so that no entry of the ledger and no other cell's file has a
    time from which the length of a search could be told.
    """
    with work.folder.alone():
        work.folder.wait_for_workers()
        work.folder.recover()
        over = {outcome.cell.digest: outcome for outcome in random_search.reserve_all(work, cells)}
        left = sorted((cell for cell in cells if cell.digest not in over), key=random_search.is_charged)
        done = executor.run(left, work, watch) if left else []
        for refused in over.values():
            watch.ended(refused)
        over |= {outcome.cell.digest: outcome for outcome in done}
        return [over[cell.digest] for cell in cells]
