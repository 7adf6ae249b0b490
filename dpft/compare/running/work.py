"""One run's work: find it finished, finish one that was broken off, or train it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from dpft.compare.cells import digest_of
from dpft.compare.events import How
from dpft.compare.folder import Folder
from dpft.compare.planning import Place
from dpft.machine.memo import Memo
from dpft.privacy.mechanism.plan import make_plan
from dpft.progress import Progress
from dpft.runs.folder import Run
from dpft.runs.result import Result
from dpft.spec import Spec
from dpft.training.resume import resume
from dpft.training.train import Planner, train


@dataclass(frozen=True)
class Work:
    """What every cell needs. All but the shelf can be sent to another process."""

    folder: Folder
    place: Place
    memo: Memo = field(default_factory=Memo)

    def one(self, spec: Spec, progress: Progress, planner: Planner = make_plan) -> tuple[Result, str | None, How]:
        """The run of `spec` in this folder, without an error."""
        with self.folder.at_work(digest_of(spec)):
            path = self.folder.found().get(digest_of(spec))
            if path is not None:
                finished = Run.open(path).read_json("result") is not None
                done = resume(path, machine=self.place.machine, progress=progress, memo=self.memo)
                return done, None, "found" if finished else "resumed"
            population = None if spec.budget is None else self.place.population
            done = train(
                spec, runs=self.folder.runs, ledger=self.place.ledger, population=population,
                machine=self.place.machine, progress=progress, memo=self.memo, planner=planner,
            )  # fmt: skip
            return done, None, "trained"

    def elsewhere(self, name: str, ledger: str | Path) -> Work:
        """The same work in a folder of its own below this one, charged to another ledger."""
        place = dataclasses.replace(self.place, ledger=ledger, population=None)
        return dataclasses.replace(self, folder=Folder(self.folder.path / name), place=place)

    def unseen(self) -> Work:
        """The same without a count of what is asked for, which would tell how many trials a search has."""
        return dataclasses.replace(self, memo=self.memo.uncounted())
