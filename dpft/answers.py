"""What kind of answer a task wants of each row: how it is lost, read, and put for an audit. One class a kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpft.spec import UserError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """A label with its probability; a score (no probability); or the labels that apply, with theirs."""

    label: str | float | tuple[str, ...]
    probability: float | tuple[float, ...] | None


class Answer(Protocol):
    """One kind of answer. `kind` is its name, `problem` its `problem_type` in a Hugging Face config; `named`: its
    outputs have label names.

    `start`: what outputs are before anything is learned, `reach`: how far from it answers lie. `metrics`: of a user's
    own data, the main one first. `spoken`: each word of a row has an answer, not the row. `losses`: one loss per
    example, which no other example's outputs enter: (B, outputs) and the labels of B rows -> (B,).
    """

    @property
    def kind(self) -> str: ...
    @property
    def problem(self) -> str: ...
    @property
    def named(self) -> bool: ...
    @property
    def start(self) -> float: ...
    @property
    def reach(self) -> float: ...
    @property
    def metrics(self) -> tuple[str, ...]: ...
    @property
    def spoken(self) -> bool: ...
    def check(self, values: NDArray[Any], labels: tuple[str, ...], split: str) -> None:
        """Raise UserError where a split's label array does not fit the label names."""
        ...

    def blank(self, rows: int, labels: int) -> NDArray[Any]:
        """Labels of `rows` made-up rows, that anything can be computed with."""
        ...

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor: ...
    def least_likely(self, outputs: Tensor) -> Tensor:
        """For each row a label that the outputs are far from: its loss has a gradient of some size."""
        ...

    def opposing(self, sides: NDArray[np.int64], turned: NDArray[np.bool_], outputs: int) -> Tensor:
        """Labels of an audit's rows: (N,) `sides` 0 or 1 pull apart, and `turned` rows pull the other way."""
        ...

    def read(self, outputs: Floats, labels: tuple[str, ...]) -> list[Prediction]: ...


@dataclass(frozen=True)
class Classes:
    """One label of several: softmax and cross-entropy. Labels: (N,) int64.

    `weights`: what a mistake on each class costs, (C,) above 0; () for the same on all. The loss is the cross-entropy
    of outputs - log weights (Menon et al. 2021, the logit-adjusted loss, with 1 / shares), so that the outputs
    themselves come to be the logarithms of weighted probabilities. A weight on the loss would do the same without
    privacy; here the clip would take it off again.
    """

    weights: tuple[float, ...] = ()

    kind = "classification"
    problem = "single_label_classification"
    named = True
    start = 0.0
    reach = 1.0
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1_macro")
    spoken = False

    def check(self, values: NDArray[Any], labels: tuple[str, ...], split: str) -> None:
        bad = np.flatnonzero(~np.isin(values, np.arange(len(labels))))
        if len(bad):
            raise UserError(
                f"{split} labels must be whole numbers from 0 to {len(labels) - 1}, got others or missing ones, the "
                f"first in row {bad[0] + 1}; drop unlabelled rows (GLUE's test split has none)"
            )

    def blank(self, rows: int, labels: int) -> NDArray[Any]:
        return np.zeros(rows, np.int64)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if self.weights:
            outputs = outputs - torch.tensor(self.weights, dtype=outputs.dtype, device=outputs.device).log()
        return nn.functional.cross_entropy(outputs, labels, reduction="none")

    def least_likely(self, outputs: Tensor) -> Tensor:
        return outputs.argmin(1)

    def opposing(self, sides: NDArray[np.int64], turned: NDArray[np.bool_], outputs: int) -> Tensor:
        return torch.as_tensor((sides + turned) % outputs)

    def read(self, outputs: Floats, labels: tuple[str, ...]) -> list[Prediction]:
        shifted = np.exp(outputs.astype(np.float64) - outputs.max(1, keepdims=True, initial=-np.inf))
        chances = shifted / shifted.sum(1, keepdims=True)
        return [Prediction(labels[int(c.argmax())], float(c.max())) for c in chances]


@dataclass(frozen=True)
class Score:
    """A number from `low` to `high`: squared error of the one output over half that range. Labels: (N,) float32.

    `stated`: somebody said so, and scores beyond are refused; else it is a guess, and they are not. The range is
    public. Outputs start in its middle: from 0 all errors of scores of 0 to 5 have one sign, and once each gradient is
    cut to the clip, they would push alike, whatever their scores, until the bias had come all the way.
    """

    low: float = -1.0
    high: float = 1.0
    stated: bool = field(default=False, compare=False)

    kind = "regression"
    problem = "regression"
    named = False
    metrics = ("pearson", "spearman")
    spoken = False

    @property
    def start(self) -> float:
        return (self.low + self.high) / 2

    @property
    def reach(self) -> float:
        return (self.high - self.low) / 5

    def check(self, values: NDArray[Any], labels: tuple[str, ...], split: str) -> None:
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise UserError(
                f"{split} scores must be finite numbers, got missing ones, the first in row {bad[0] + 1}; "
                "drop those rows"
            )
        beyond = np.flatnonzero((values < self.low) | (values > self.high))
        if self.stated and len(beyond):
            raise UserError(
                f"{split} scores must lie from {self.low:g} to {self.high:g}, got another, the first in row "
                f"{beyond[0] + 1}; mend those rows"
            )

    def blank(self, rows: int, labels: int) -> NDArray[Any]:
        return np.zeros(rows, np.float32)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs[:, 0] - labels).square() * (2 / (self.high - self.low))

    def least_likely(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0] - 1 - outputs[:, 0].abs()

    def opposing(self, sides: NDArray[np.int64], turned: NDArray[np.bool_], outputs: int) -> Tensor:
        return torch.as_tensor(np.where((sides == 1) ^ turned, 100.0, -100.0), dtype=torch.float32)

    def read(self, outputs: Floats, labels: tuple[str, ...]) -> list[Prediction]:
        return [Prediction(float(row[0]), None) for row in outputs]


@dataclass(frozen=True)
class ManyLabels:
    """Any number of labels, each by itself: a sigmoid and binary cross-entropy, summed over the labels of one
    example. Labels: (N, L) float32 of 0 and 1. A label applies from a probability of 0.5 on."""

    kind = "multi-label"
    problem = "multi_label_classification"
    named = True
    start = 0.0
    reach = 1.0
    metrics = ("f1_micro", "f1_macro")
    spoken = False

    def check(self, values: NDArray[Any], labels: tuple[str, ...], split: str) -> None:
        if values.ndim != 2 or values.shape[1] != len(labels) or not np.isin(values, (0, 1)).all():
            raise UserError(
                f"{split} labels must be 0 or 1 for each of {len(labels)} names, got others; check --labels"
            )

    def blank(self, rows: int, labels: int) -> NDArray[Any]:
        return np.zeros((rows, labels), np.float32)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none").sum(1)

    def least_likely(self, outputs: Tensor) -> Tensor:
        return (outputs < 0).to(outputs.dtype)

    def opposing(self, sides: NDArray[np.int64], turned: NDArray[np.bool_], outputs: int) -> Tensor:
        applies = torch.as_tensor((sides == 1) ^ turned, dtype=torch.float32)
        return applies.unsqueeze(1).expand(-1, outputs)

    def read(self, outputs: Floats, labels: tuple[str, ...]) -> list[Prediction]:
        chances = torch.from_numpy(outputs).double().sigmoid().numpy()
        found = []
        for row in chances:
            applies = [int(label) for label in np.flatnonzero(row >= 0.5)]
            found.append(Prediction(tuple(labels[i] for i in applies), tuple(float(row[i]) for i in applies)))
        return found


@dataclass(frozen=True)
class Tags(Classes):
    """One label for each word: softmax and cross-entropy, averaged over the words of one example and of no other.

    An example without words has a loss of 0. Labels: of all words end to end; in a batch (B, T) int64 at each word's
    first token, below 0 at tokens that are not judged, with outputs (B, T, C).
    """

    kind = "token-classification"
    reach = 0.1  # most words have one label: what the head says by chance has to be unlearned for each
    metrics: ClassVar[tuple[str, ...]] = ("entity_f1", "entity_precision", "entity_recall")
    spoken = True

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        judged = labels >= 0
        known = labels.clamp(min=0).flatten()
        each = nn.functional.cross_entropy(outputs.flatten(0, 1), known, reduction="none").view_as(labels)
        return (each * judged).sum(1) / judged.sum(1).clamp(min=1)

    def least_likely(self, outputs: Tensor) -> Tensor:
        return outputs.argmin(-1)


CLASSES: Answer = Classes()
ANSWERS: dict[str, Answer] = {answer.kind: answer for answer in (CLASSES, Score(), ManyLabels(), Tags())}


def plain(labels: int) -> Answer:
    """Where nothing else is said: one label of several, or a score where there are none."""
    return CLASSES if labels else Score()
