"""What a task is: rows, labels, an objective, a metric. It knows nothing of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dpft.data.examples import Rows
from dpft.errors import UserError
from dpft.objectives import Objective, plain


def check_rows(parts: Mapping[str, Rows], split: str, objective: Objective, labels: tuple[str, ...]) -> None:
    """Raise UserError where a part of a split has no row, or labels that are none of the task's."""
    for part, rows in parts.items():
        named = f"{part} {split}".strip()
        if len(rows) == 0:
            raise UserError(f"{named} data must hold at least one row, got none; check --data")
        objective.check(rows.labels, labels, named)


@dataclass(frozen=True)
class Task:
    """Rows to train on, rows to judge by (None where there are none), label names (empty for a score), the metric.

    `objective`: the kind of task that it is. `further`: metrics beside the main one. `others`: more rows to
    judge by, by name. `notes`: what a user should know of how the data were read. `taken`: what was read off the
    training data instead of being stated beforehand, for the privacy card.
    """

    name: str
    train: Rows
    validation: Rows | None
    labels: tuple[str, ...]
    metric: str
    objective: Objective = field(default_factory=lambda: plain(1))
    further: tuple[str, ...] = ()
    others: Mapping[str, Rows] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_rows({"": self.train}, "training", self.objective, self.labels)
        check_rows(self.judged, "validation", self.objective, self.labels)

    @property
    def judged(self) -> dict[str, Rows]:
        """All rows to judge by: the main ones under the name "", the others under theirs."""
        return {} if self.validation is None else {"": self.validation, **self.others}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The main metric, then the others."""
        return (self.metric, *self.further)

    @property
    def paired(self) -> bool:
        return self.train.pairs is not None

    @property
    def outputs(self) -> int:
        """Rows of the head."""
        return self.objective.outputs(len(self.labels))
