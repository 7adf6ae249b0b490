"""Any number of labels for each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpft.data.examples import Examples
from dpft.data.label_column import SEPARATOR, Cell, LabelColumn, distinct
from dpft.errors import UserError
from dpft.objectives._objective import ExportTarget, Floats, Labels, Metric, Objective, Prediction


@dataclass(frozen=True)
class MultiLabel(Objective):
    """Any number of labels, each by itself: a sigmoid and binary cross-entropy, summed over the labels of one
    example. Labels: (N, L) float32 of 0 and 1. A label applies from a probability of 0.5 on."""

    kind = "multi-label"
    metrics = (Metric("f1_micro"), Metric("f1_macro"))
    export = ExportTarget(
        "multi_label_classification",
        "[[name for name, logit in zip(labels, row) if logit >= 0] for row in logits]",
        given=", truncation=True, top_k=None",
    )
    from_columns = True
    rule = f"lists, or names joined by {SEPARATOR},"

    def recognises(self, column: LabelColumn) -> bool:
        return any(isinstance(cell, tuple) or SEPARATOR in cell for cell in column.cells if cell is not None)

    def named(self, column: LabelColumn, stated: Labels | None) -> tuple[Objective, Labels]:
        return self, stated or distinct({name for cell in column.cells for name in _names(cell)})

    def parse(self, column: LabelColumn, labels: Labels, split: str) -> NDArray[Any]:
        found = []
        for cell, first in column.each():
            names = _names(cell)
            if any(name not in labels for name in names):
                raise column.unknown(first, split, labels)
            found.append([float(name in names) for name in labels])
        return column.spread(found, np.float32)

    def check(self, values: NDArray[Any], labels: Labels, split: str) -> None:
        if values.ndim != 2 or values.shape[1] != len(labels) or not np.isin(values, (0, 1)).all():
            raise UserError(
                f"{split} labels must be 0 or 1 for each of {len(labels)} names, got others; check --labels"
            )

    def blank(self, rows: int, labels: int) -> NDArray[Any]:
        return np.zeros((rows, labels), np.float32)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none").sum(1)

    def score(self, metrics: Sequence[str], outputs: Floats, rows: Examples, labels: Labels) -> dict[str, float]:
        from sklearn.metrics import f1_score

        return {
            metric: float(f1_score(rows.labels, outputs >= 0, average=metric.removeprefix("f1_"), zero_division=0.0))
            for metric in metrics
        }

    def read(self, outputs: Floats, rows: Examples, labels: Labels) -> list[Prediction]:
        chances = torch.from_numpy(outputs).double().sigmoid().numpy()
        found = []
        for row in chances:
            applies = [int(label) for label in np.flatnonzero(row >= 0.5)]
            found.append(Prediction(tuple(labels[i] for i in applies), tuple(float(row[i]) for i in applies)))
        return found

    def printed(self, found: Any, text: str) -> str:
        chances = "|".join(f"{chance:.3f}" for chance in found.probability)
        return f"{'|'.join(found.label) or '-'}\t{chances or '-'}\t{text}"

    def least_likely(self, outputs: Tensor) -> Tensor:
        return (outputs < 0).to(outputs.dtype)

    def opposing(self, sides: NDArray[np.int64], turned: NDArray[np.bool_], outputs: int) -> Tensor:
        applies = torch.as_tensor((sides == 1) ^ turned, dtype=torch.float32)
        return applies.unsqueeze(1).expand(-1, outputs)


OBJECTIVE = MultiLabel


def _names(cell: Cell) -> tuple[str, ...]:
    """The labels of a cell: a list, or names separated by |; empty for an empty cell."""
    parts = () if cell is None else cell if isinstance(cell, tuple) else cell.split(SEPARATOR)
    return tuple(part.strip() for part in parts if part.strip())
