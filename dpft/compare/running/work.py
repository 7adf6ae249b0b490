"""One run of a comparison: found finished, resumed, or trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from dpft.compare.cells import digest_of
from dpft.compare.events import How
from dpft.compare.folder import ComparisonFolder
from dpft.compare.planning import Placement
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
    """The context of all cells. Everything but the cache can be sent to another process."""

    folder: ComparisonFolder
    place: Placement
    memo: Memo = field(default_factory=Memo)

    def one(self, spec: Spec, progress: Progress, planner: Planner = make_plan) -> tuple[Result, str | None, How]:
        """Find, resume or train the run of `spec` in this folder. Returns (result, None, how)."""
        with self.folder.spec_lock(digest_of(spec)):
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

    def in_subfolder(self, name: str, ledger: str | Path) -> Work:
        """The same context in a subfolder, charged to another ledger."""
        place = dataclasses.replace(self.place, ledger=ledger, population=None)
        return dataclasses.replace(self, folder=ComparisonFolder(self.folder.path / name), place=place)

    def without_counts(self) -> Work:
        """The same without cache counters, which would reveal the number of trials."""
        return dataclasses.replace(self, memo=self.memo.uncounted())
