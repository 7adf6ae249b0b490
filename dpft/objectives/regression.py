"""A score for each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpft.data.examples import Examples
from dpft.data.label_column import SEPARATOR, Cell, LabelColumn, number
from dpft.errors import UserError
from dpft.objectives._objective import ExportTarget, Floats, Labels, Metric, Objective, Prediction, Wording

_MOST = 1e30
_NOT_FINITE = ("nan", "inf", "infinity")


@dataclass(frozen=True)
class Regression(Objective):
    """A number from `low` to `high`: squared error of the one output over half that range. Labels: (N,) float32.

    `stated`: the range was given, so scores outside it are refused; otherwise it is a guess, and they are allowed. The
    range is public. Outputs start in its middle. From 0, all errors of scores of 0 to 5 would have one sign, and after
    clipping all gradients would be alike, whatever the scores, until the bias had reached the middle.
    """

    low: float = -1.0
    high: float = 1.0
    stated: bool = field(default=False, compare=False)

    kind = "regression"
    metrics = (Metric("pearson"), Metric("spearman"))
    export = ExportTarget("regression")
    wording = Wording(outputs="its output is a score")
    rule = "numbers of which one has a fraction"

    @property
    def start(self) -> float:
        return (self.low + self.high) / 2

    @property
    def reach(self) -> float:
        return (self.high - self.low) / 5

    @property
    def notes(self) -> tuple[str, ...]:
        if self.stated:
            return ()
        return ("scores are assumed to lie around 0: state their range, as --labels 0,5, to waste fewer steps",)

    def recognises(self, column: LabelColumn) -> bool:
        """Raises UserError where a column mixes scores and other values."""
        found = [cell for cell in column.cells if cell is not None]
        if any(isinstance(cell, tuple) or SEPARATOR in cell for cell in found):
            return False
        numbers = {cell: number(cell) for cell in found if isinstance(cell, str)}
        odd = [cell for cell, value in numbers.items() if value is None]
        fractions = any(value is not None and not value.is_integer() for value in numbers.values())
        if odd and (
            fractions or (len(odd) < len(numbers) and all(cell.lower().lstrip("+-") in _NOT_FINITE for cell in odd))
        ):
            raise column.refusal(
                "labels must all be finite numbers where others are", "another",
                column.firsts[column.cells.index(odd[0])], "fix that row, or state the kind: --kind",
            )  # fmt: skip
        return fractions

    def named(self, column: LabelColumn, stated: Labels | None) -> tuple[Objective, Labels]:
        """The objective with the stated range, from its ends; a score has no label names."""
        if stated is None:
            return self, ()
        ends = [number(end) for end in stated]
        if len(ends) != 2 or ends[0] is None or ends[1] is None or not ends[0] < ends[1] < _MOST:
            raise UserError(f"labels of a score are its lowest and highest, got {len(ends)} others; pass --labels 0,5")
        return Regression(ends[0], ends[1], stated=True), ()

    def parse(self, column: LabelColumn, labels: Labels, split: str) -> NDArray[Any]:
        return column.spread([self._score(column, *each) for each in column.each()], np.float32)

    def _score(self, column: LabelColumn, cell: Cell, first: int) -> float:
        if cell is None:
            raise column.missing(first)
        value = number(cell)
        if value is None or not abs(value) < _MOST:
            raise column.refusal("a score must be a finite number", "another", first, "fix that row, or pass --kind")
        if self.stated and not self.low <= value <= self.high:
            raise column.refusal(
                f"a score must lie from {self.low:g} to {self.high:g}, as was stated", "another", first,
                "fix that row, or state another range with --labels",
            )  # fmt: skip
        return value

    def check(self, values: NDArray[Any], labels: Labels, split: str) -> None:
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
                f"{beyond[0] + 1}; fix those rows"
            )

    def blank(self, rows: int, labels: int) -> NDArray[Any]:
        return np.zeros(rows, np.float32)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs[:, 0] - labels).square() * (2 / (self.high - self.low))

    def score(self, metrics: Sequence[str], outputs: Floats, rows: Examples, labels: Labels) -> dict[str, float]:
        from scipy.stats import pearsonr, spearmanr

        constant = np.ptp(outputs[:, 0]) == 0 or np.ptp(rows.labels) == 0
        by_name = {"pearson": pearsonr, "spearman": spearmanr}
        return {
            metric: 0.0 if constant else float(by_name[metric](outputs[:, 0], rows.labels).statistic)
            for metric in metrics
        }

    def read(self, outputs: Floats, rows: Examples, labels: Labels) -> list[Prediction]:
        return [Prediction(float(row[0]), None) for row in outputs]

    def printed(self, found: Any, text: str) -> str:
        return f"{found.label:.3f}\t{text}"

    def least_likely(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0] - 1 - outputs[:, 0].abs()

    def opposing(self, sides: NDArray[np.int64], turned: NDArray[np.bool_], outputs: int) -> Tensor:
        return torch.as_tensor(np.where((sides == 1) ^ turned, 100.0, -100.0), dtype=torch.float32)


OBJECTIVE = Regression
