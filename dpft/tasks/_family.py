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

TABLE_FLAGS = ("text", "pair", "label", "validation", "kind", "labels")
_WRITING_FLAGS = ("prompt", "messages")
FLAGS = (*TABLE_FLAGS, *_WRITING_FLAGS)
UNJUDGED = "no validation set: all rows are trained on, none is held out; evaluate with dpft evaluate RUN --data FILE"


def names_note(labels: tuple[str, ...]) -> str:
    """The note on label names that nobody stated."""
    return f"read {len(labels)} label names from the data: they are not private (--labels states them beforehand)"


class Family(ABC):
    """Tasks that are read alike. `tasks`: each name, with a line about it; `place`: where they stand in lists; `flags`:
    which of FLAGS they take; `writes`: the model learns to write their texts."""

    tasks: ClassVar[Mapping[str, str]]
    place: ClassVar[int]
    flags: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[bool] = False

    def flags_of(self, task: str) -> tuple[str, ...]:
        """Which of FLAGS `task` takes."""
        return self.flags

    def check(self, spec: Spec) -> None:
        """Raise UserError for a spec that no such task can be made of, before anything is read."""
        for flag in FLAGS:
            if getattr(spec, flag) is not None and flag not in self.flags_of(spec.task):
                own = "text/files" if flag in _WRITING_FLAGS else "files"
                raise UserError(
                    f"only the task {own} takes --{flag}, got the task {spec.task}; pass --task {own} or drop it"
                )
        if not self.writes and (spec.max_windows, spec.token_loss) != (Spec.max_windows, Spec.token_loss):
            raise UserError(
                f"max-windows and token-loss go with tasks that write, got the task {spec.task}; pass --task "
                "text/files or drop them"
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
