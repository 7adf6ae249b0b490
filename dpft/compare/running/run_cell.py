"""Runs one cell: a single run, a charged search, or a search on public rows followed by a run."""

from __future__ import annotations

import errno
import os

from dpft.compare.cells import Cell
from dpft.compare.events import How, Outcome
from dpft.compare.running import public_search, random_search
from dpft.compare.running.work import Work
from dpft.errors import UserError
from dpft.progress import Progress
from dpft.runs.result import Result


class DiskFull(UserError):
    """The disk is full: no further cell can run."""


def run_cell(work: Work, cell: Cell, progress: Progress) -> Outcome:
    """Run a cell. An error becomes an outcome of one line that quotes no row. A full disk raises OutOfRoom."""
    try:
        return Outcome(cell, *_found(work, cell, progress))
    except DiskFull:
        raise
    except UserError as error:
        return Outcome(cell, None, str(error), "failed")
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"the disk must have room for the runs, got none left at {str(work.folder.path)!r}; make room and "
                "repeat the command"
            ) from None
        if os.environ.get("DPFT_DEBUG"):
            raise
        what = f"unexpected {type(error).__name__}; set DPFT_DEBUG=1 to see where (its text may quote your data)"
        return Outcome(cell, None, what, "failed")


def _found(work: Work, cell: Cell, progress: Progress) -> tuple[Result, str | None, How]:
    if cell.trials is None:
        return work.one(cell.spec, progress)
    if cell.trials.public is not None:
        return public_search.search_public_rows(work, cell, cell.trials, progress)
    return random_search.run_charged_search(work, cell, progress)
