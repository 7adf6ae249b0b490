"""Formatting of numbers for people: with units and significant digits only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dpft.reports.reading.cells import Cell

from dpft.runs.statements import rounded_up

MISSING = "—"


@dataclass(frozen=True)
class Scale:
    """How a metric is shown: times `factor`, with `digits` behind the point, in `unit`; differences in `apart`."""

    factor: float
    digits: int
    unit: str
    apart: str

    def show(self, value: float) -> str:
        return f"{value * self.factor:.{self.digits}f}"

    def cell(self, cell: Cell) -> str:
        """Mean ± standard deviation of a cell."""
        return self.show(cell.mean) + ("" if cell.n < 2 else f" ± {self.show(cell.spread)}")

    def difference(self, value: float, spread: float) -> str:
        """Signed, with a true minus."""
        text = f"{value * self.factor:+.{self.digits}f}".replace("-", "−")
        return text if math.isnan(spread) else f"{text} ± {self.show(spread)}"


_SHARE = Scale(100, 1, "%", "percentage points")
_PLAIN = Scale(1, 3, "no unit", "no unit")


def scale(metric: str) -> Scale:
    """Accuracies and F1 are shares of one, shown in per cent; correlations have no unit."""
    return _SHARE if "accuracy" in metric or "f1" in metric else _PLAIN


def epsilon(budget: float) -> str:
    """The requested budget of a column, or "no privacy"."""
    return f"ε = {budget:g}" if math.isfinite(budget) else "no privacy"


def proven(upper: float | None) -> str:
    """An upper bound, rounded up."""
    if upper is None or not math.isfinite(upper):
        return MISSING
    return rounded_up(upper)


def count(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:,.0f}"


def seconds(value: float) -> str:
    """Seconds with three significant digits."""
    if math.isnan(value):
        return MISSING
    return f"{value:#.3g}" if value < 100 else f"{value:,.0f}"


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def counts(cells: list[Cell]) -> str:
    """How many runs the cells hold, in words."""
    sizes = sorted({cell.n for cell in cells})
    if not sizes:
        return "no runs"
    return plural(sizes[0], "run") if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} runs"
