"""What a task is: rows, labels, a metric. It knows nothing of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpft.spec import UserError
from dpft.tasks.words import Words


@dataclass(frozen=True)
class Rows:
    """Texts, their partners where the task is about pairs, and labels: (N,) int64 classes or float32 scores.

    units: (N,) the number of the unit that each row belongs to, from 0 on; None where each row is its own.
    words: where the words of each text stand, for tasks that label words; labels are then (W,) int64, all texts' words
    end to end.
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: NDArray[np.int64] | NDArray[np.float32]
    units: NDArray[np.int64] | None = None
    words: Words | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def protected(self) -> int:
        """How many units there are: whom privacy is promised to."""
        return len(self) if self.units is None else len(np.unique(self.units))


@dataclass(frozen=True)
class Task:
    """Rows to train on, rows to judge by, label names (empty for a score), and the metric's name."""

    name: str
    train: Rows
    validation: Rows
    labels: tuple[str, ...]
    metric: str

    def __post_init__(self) -> None:
        for split, rows in (("training", self.train), ("validation", self.validation)):
            if len(rows) == 0:
                raise UserError(f"{split} data must hold at least one row, got none; check --data")
            if self.labels and not np.isin(rows.labels, np.arange(len(self.labels))).all():
                raise UserError(
                    f"{split} labels must be whole numbers from 0 to {len(self.labels) - 1}, got others or "
                    "missing ones; drop unlabelled rows (GLUE's test split has none)"
                )
            if not np.isfinite(rows.labels).all():
                raise UserError(f"{split} scores must be finite numbers, got missing ones; drop those rows")

    @property
    def outputs(self) -> int:
        """Rows of the head: one per class, or one for a score."""
        return len(self.labels) or 1
