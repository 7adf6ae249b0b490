"""One cell's work: find its finished run, finish one that was broken off, or train it."""

from __future__ import annotations

import dataclasses
import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

from dpft.compare import public_search, searching
from dpft.compare.cells import Cell, digest_of
from dpft.compare.folder import Folder
from dpft.compare.planning import Place
from dpft.compare.watch import How, Outcome
from dpft.privacy.plan import make_plan
from dpft.progress import Progress
from dpft.result import Result
from dpft.run import Run
from dpft.shelf import Shelf
from dpft.spec import Spec, UserError
from dpft.training import Planner, resume, train


class OutOfRoom(UserError):
    """The disk is full: no further cell can be done."""


@dataclass(frozen=True)
class Work:
    """What every cell needs. All but the shelf can be sent to another process."""

    folder: Folder
    place: Place
    shelf: Shelf = field(default_factory=Shelf)

    def __call__(self, cell: Cell, progress: Progress) -> Outcome:
        """Do a cell. A mistake, or whatever breaks, is told in one line that quotes no row; a full disk stops all."""
        try:
            return Outcome(cell, *self._do(cell, progress))
        except OutOfRoom:
            raise
        except UserError as error:
            return Outcome(cell, None, str(error), "failed")
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfRoom(
                    f"the disk must have room for the runs, got none left at {str(self.folder.path)!r}; make room and "
                    "repeat the command"
                ) from None
            if os.environ.get("DPFT_DEBUG"):
                raise
            what = f"unexpected {type(error).__name__}; set DPFT_DEBUG=1 to see where (its text may quote your data)"
            return Outcome(cell, None, what, "failed")

    def one(self, spec: Spec, progress: Progress, planner: Planner = make_plan) -> tuple[Result, str | None, How]:
        """The run of `spec` in this folder, without an error."""
        with self.folder.at_work(digest_of(spec)):
            path = self.folder.found().get(digest_of(spec))
            if path is not None:
                finished = Run.open(path).read_json("result") is not None
                done = resume(path, machine=self.place.machine, progress=progress, shelf=self.shelf)
                return done, None, "found" if finished else "resumed"
            population = None if spec.budget is None else self.place.population
            done = train(
                spec, runs=self.folder.runs, ledger=self.place.ledger, population=population,
                machine=self.place.machine, progress=progress, shelf=self.shelf, planner=planner,
            )  # fmt: skip
            return done, None, "trained"

    def elsewhere(self, name: str, ledger: str | Path) -> Work:
        """The same work in a folder of its own below this one, charged to another ledger."""
        place = dataclasses.replace(self.place, ledger=ledger, population=None)
        return dataclasses.replace(self, folder=Folder(self.folder.path / name), place=place)

    def unseen(self) -> Work:
        """The same without a count of what is asked for, which would tell how many trials a search has."""
        return dataclasses.replace(self, shelf=self.shelf.uncounted())

    def _do(self, cell: Cell, progress: Progress) -> tuple[Result, str | None, How]:
        if cell.trials is None:
            return self.one(cell.spec, progress)
        if cell.trials.public is not None:
            return public_search.tuned_on_public(self, cell, cell.trials, progress)
        return searching.best_of_trials(self, cell, progress)
