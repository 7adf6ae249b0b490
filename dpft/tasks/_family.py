"""The contract of a family of tasks: what one file of this folder must say of the tasks that it reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from dpft import objectives
from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.objectives import Objective
from dpft.spec import Spec
from dpft.tasks.task import Task

FLAGS = ("text", "pair", "label", "validation", "kind", "labels")


class Family(ABC):
    """Tasks that are read alike. `tasks`: each name, with a line about it; `place`: where they stand in lists; `flags`:
    which of FLAGS they take."""

    tasks: ClassVar[Mapping[str, str]]
    place: ClassVar[int]
    flags: ClassVar[tuple[str, ...]] = ()

    def flags_of(self, task: str) -> tuple[str, ...]:
        """Which of FLAGS `task` takes."""
        return self.flags

    def check(self, spec: Spec) -> None:
        """Raise UserError for a spec that no such task can be made of, before anything is read."""
        for flag in FLAGS:
            if getattr(spec, flag) is not None and flag not in self.flags_of(spec.task):
                raise UserError(
                    f"only the task files takes --{flag}, got the task {spec.task}; pass --task files or drop it"
                )

    def objective(self, spec: Spec) -> Objective:
        """What the head has to read, as far as it is known before the data are read."""
        return objectives.plain(1) if spec.kind is None else objectives.of_column(spec.kind)

    @abstractmethod
    def load(self, spec: Spec) -> Task:
        """The task. Raises UserError on data that do not fit it."""

    @abstractmethod
    def validation(
        self, spec: Spec, data: str | None, objective: Objective, labels: tuple[str, ...]
    ) -> dict[str, Examples]:
        """The validation sets by name, the main one under ""; with `data`, those of other data. {} without any."""

    def metrics(self, task: str, objective: Objective) -> tuple[str, ...]:
        """The metrics of `task`, the main one first."""
        return tuple(metric.name for metric in objective.metrics)
