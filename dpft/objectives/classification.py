"""One label of several for each text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpft.data.examples import Examples
from dpft.data.label_column import SEPARATOR, Cell, LabelColumn, distinct
from dpft.errors import UserError
from dpft.objectives._objective import ExportTarget, Floats, Labels, Metric, Objective, Prediction

_MOST_NAMED = 8


@dataclass(frozen=True)
class Classification(Objective):
    """One label of several: softmax and cross-entropy. Labels: (N,) int64.

    `weights`: the cost of a mistake on each class, (C,) above 0; () for equal costs. The loss is the cross-entropy
    of outputs - log weights (Menon et al. 2021, the logit-adjusted loss, with 1 / shares), so that the outputs become
    logarithms of weighted probabilities. A weight on the loss would do the same without privacy; with DP-SGD clipping
    would remove it.
    """

    weights: tuple[float, ...] = ()

    kind = "classification"
    metrics = (Metric("accuracy"), Metric("f1_macro"))
    further = (Metric("f1"), Metric("f1_micro"), Metric("matthews"))
    export = ExportTarget("single_label_classification", "[labels[i] for i in logits.argmax(1)]")

    def named(self, column: LabelColumn, stated: Labels | None) -> tuple[Objective, Labels]:
        return self, stated or distinct({_name(column, *each) for each in column.each()})

    def parse(self, column: LabelColumn, labels: Labels, split: str) -> NDArray[Any]:
        places = {name: place for place, name in enumerate(labels)}
        found = []
        for cell, first in column.each():
            name = _name(column, cell, first)
            if name not in places:
                raise column.unknown(first, split, labels)
            found.append(places[name])
        return column.spread(found, np.int64)

    def check(self, values: NDArray[Any], labels: Labels, split: str) -> None:
        check_numbers(values, labels, split)

    def blank(self, rows: int, labels: int) -> NDArray[Any]:
        return np.zeros(rows, np.int64)

    def weighted(self, labels: Labels, weights: str | Mapping[str, float], shares: Mapping[str, float]) -> Objective:
        balanced = isinstance(weights, str)
        stated = shares if isinstance(weights, str) else weights
        if set(stated) != set(labels):
            flag = "shares" if balanced else "class-weights"
            unknown, missing = sorted(set(stated) - set(labels)), len(set(labels) - set(stated))
            named = f" ({', '.join(unknown[:_MOST_NAMED])})" if unknown else ""
            raise UserError(  # the task's names are not quoted: they may come from training rows
                f"{flag} must name every class once, got {len(unknown)} unknown{named} and {missing} left out; "
                f"correct --{flag}"
            )
        values = [float(stated[name]) for name in labels]
        return replace(self, weights=tuple(1 / value if balanced else value for value in values))

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if self.weights:
            outputs = outputs - torch.tensor(self.weights, dtype=outputs.dtype, device=outputs.device).log()
        return nn.functional.cross_entropy(outputs, labels, reduction="none")

    def score(self, metrics: Sequence[str], outputs: Floats, rows: Examples, labels: Labels) -> dict[str, float]:
        return {metric: measure(metric, outputs, rows.labels) for metric in metrics}

    def by_class(self, outputs: Floats, rows: Examples, labels: Labels) -> dict[str, Any]:
        """The largest class with its share (the accuracy of a constant answer), macro-F1, and the recall of each class
        in these rows; {} without rows."""
        from sklearn.metrics import f1_score, recall_score

        if not len(rows.labels):
            return {}
        counts = np.bincount(rows.labels, minlength=len(labels))
        there = np.flatnonzero(counts)
        chosen = outputs.argmax(1)
        recalls = recall_score(rows.labels, chosen, labels=there, average=None, zero_division=0.0)
        largest = int(counts.argmax())
        return {
            "largest": {"label": labels[largest], "share": float(counts[largest] / len(rows.labels))},
            "f1_macro": float(f1_score(rows.labels, chosen, average="macro", zero_division=0.0)),
            "recall": {labels[int(number)]: float(value) for number, value in zip(there, recalls, strict=True)},
        }

    def read(self, outputs: Floats, rows: Examples, labels: Labels) -> list[Prediction]:
        return [Prediction(labels[int(c.argmax())], float(c.max())) for c in chances(outputs)]

    def least_likely(self, outputs: Tensor) -> Tensor:
        return outputs.argmin(1)

    def opposing(self, sides: NDArray[np.int64], turned: NDArray[np.bool_], outputs: int) -> Tensor:
        return two_sides(sides, turned, outputs)

    def canary_labels(self, true: Sequence[int], rest: int, labels: int, rng: Random) -> NDArray[Any] | None:
        if self.weights:  # an audit of a finished run has no weights, so its losses would differ
            return None
        # On tasks with other labels no label is right, so the second one serves.
        wrong = [(label + 1) % labels for label in true]
        return np.array([*wrong, *(rng.randrange(labels) for _ in range(rest))], np.int64)


OBJECTIVE = Classification


def _name(column: LabelColumn, cell: Cell, first: int) -> str:
    if not cell:
        raise column.missing(first)
    return SEPARATOR.join(cell) if isinstance(cell, tuple) else cell


def measure(metric: str, outputs: Floats, labels: NDArray[Any]) -> float:
    """Accuracy, f1 (of class 1), f1_macro, f1_micro or matthews. outputs: (N, C) logits; labels: (N,)."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    chosen = outputs.argmax(1)
    if metric in ("f1_macro", "f1_micro"):
        return float(f1_score(labels, chosen, average=metric.removeprefix("f1_"), zero_division=0.0))
    by_name = {"accuracy": accuracy_score, "f1": f1_score, "matthews": matthews_corrcoef}
    return float(by_name[metric](labels, chosen))


def check_numbers(values: NDArray[Any], labels: Labels, split: str) -> None:
    """Raise UserError where a label is no index into `labels`."""
    bad = np.flatnonzero(~np.isin(values, np.arange(len(labels))))
    if len(bad):
        raise UserError(
            f"{split} labels must be whole numbers from 0 to {len(labels) - 1}, got others or missing ones, the "
            f"first in row {bad[0] + 1}; drop unlabelled rows (GLUE's test split has none)"
        )


def chances(outputs: Floats) -> NDArray[np.float64]:
    """Softmax: (N, C) logits -> same, in float64."""
    shifted = np.exp(outputs.astype(np.float64) - outputs.max(1, keepdims=True, initial=-np.inf))
    found: NDArray[np.float64] = shifted / shifted.sum(1, keepdims=True)
    return found


def two_sides(sides: NDArray[np.int64], turned: NDArray[np.bool_], outputs: int) -> Tensor:
    """The class of each side, and the next class for turned rows."""
    return torch.as_tensor((sides + turned) % outputs)
