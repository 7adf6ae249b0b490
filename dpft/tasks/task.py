"""A task: training rows, validation sets, labels, objective and metrics. It knows nothing of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.objectives import Objective, plain


def check_rows(parts: Mapping[str, Examples], split: str, objective: Objective, labels: tuple[str, ...]) -> None:
    """Raise UserError where a part of a split has no row, or labels that are not the task's."""
    for part, rows in parts.items():
        named = f"{part} {split}".strip()
        if len(rows) == 0:
            raise UserError(f"{named} data must hold at least one row, got none; check --data")
        objective.check(rows.labels, labels, named)


@dataclass(frozen=True)
class Task:
    """Training rows, the validation set (None without one), label names (empty for a score), and the main metric.

    `objective`: the kind of task. `further`: metrics beside the main one. `others`: further validation sets by name.
    `notes`: messages for the user on how the data were read. `read_from_training`: facts read from training data
    instead of being stated beforehand, for the privacy card.
    """

    name: str
    train: Examples
    validation: Examples | None
    labels: tuple[str, ...]
    metric: str
    objective: Objective = field(default_factory=lambda: plain(1))
    further: tuple[str, ...] = ()
    others: Mapping[str, Examples] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    read_from_training: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_rows({"": self.train}, "training", self.objective, self.labels)
        check_rows(self.judged, "validation", self.objective, self.labels)

    @property
    def judged(self) -> dict[str, Examples]:
        """All validation sets by name, the main one under ""."""
        return {} if self.validation is None else {"": self.validation, **self.others}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The main metric, then the further ones."""
        return (self.metric, *self.further)

    @property
    def paired(self) -> bool:
        return self.train.pairs is not None

    @property
    def outputs(self) -> int:
        """Number of outputs of the head."""
        return self.objective.outputs(len(self.labels))
