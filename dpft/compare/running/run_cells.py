"""Runs all cells of a comparison by an executor, in the right order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dpft.compare.cells import Cell
from dpft.compare.events import Listener, Outcome
from dpft.compare.running import random_search
from dpft.compare.running.run_cell import run_cell
from dpft.compare.running.work import Work


class Executor(Protocol):
    """Runs all cells, in any order and anywhere, and reports each. A full disk, or Ctrl-C, ends it."""

    def run(self, cells: Sequence[Cell], work: Work, listener: Listener) -> list[Outcome]: ...


class LocalExecutor:
    """Runs one cell after the other in this process, so that they share the cache."""

    def run(self, cells: Sequence[Cell], work: Work, listener: Listener) -> list[Outcome]:
        outcomes = []
        for number, cell in enumerate(cells, 1):
            progress = listener.began(cell, number, len(cells))
            outcomes.append(run_cell(work, cell, progress))
            listener.ended(outcomes[-1])
        return outcomes


def run_all_cells(cells: Sequence[Cell], work: Work, executor: Executor, listener: Listener) -> list[Outcome]:
    """Recover interrupted runs, then run all cells. One process at a time works on a folder.

    Charged searches are reserved first and run last, so that no timestamp of a ledger entry or of another cell's file
    reveals the length of a search.
    """
    with work.folder.alone():
        work.folder.wait_for_workers()
        work.folder.recover()
        over = {outcome.cell.digest: outcome for outcome in random_search.reserve_all(work, cells)}
        left = sorted((cell for cell in cells if cell.digest not in over), key=random_search.is_charged)
        done = executor.run(left, work, listener) if left else []
        for refused in over.values():
            listener.ended(refused)
        over |= {outcome.cell.digest: outcome for outcome in done}
        return [over[cell.digest] for cell in cells]
