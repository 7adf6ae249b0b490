"""Plot of a budget: epsilon over steps at one noise multiplier, and noise multiplier over epsilon."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpft.reports.drawing import style
from dpft.reports.reading.files import write
from matplotlib.axes import Axes

from dpft.errors import UserError

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curves:
    """All that is drawn. `spent`: (steps, epsilon) at `noise`; `needed`: (epsilon, noise) for `steps` steps."""

    spent: Points
    needed: Points
    noise: float
    steps: int
    epsilon: float
    delta: float
    rate: float


def draw(curves: Curves, file: Path) -> None:
    """Write both panels to `file` as PNG, whole or not at all. No colour carries meaning. Raises UserError."""
    if file.suffix.lower() != ".png":
        raise UserError(f"a plot must be named FILE.png, got {str(file)!r}; pass --plot budget.png")
    figure = style.figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    _spent(left, curves)
    _needed(right, curves)
    figure.suptitle(
        f"Upper bounds at δ = {curves.delta:g}, Poisson sampling at q = {curves.rate:.4g}, "
        f"adding or removing one example",
        fontsize=11,
    )
    write(style.rendered(figure, "png"), file, "a plot", "pass --plot elsewhere")


def _spent(axes: Axes, curves: Curves) -> None:
    steps, epsilon = zip(*curves.spent, strict=True)
    # Between two points the later bound holds: a straight line would fall below the concave truth.
    axes.plot(
        steps, epsilon, color="black", linewidth=1.4, drawstyle="steps-pre", label=f"spent at σ = {curves.noise:.4g}"
    )
    axes.axhline(curves.epsilon, color="black", linestyle="--", linewidth=1, label=f"budget ε = {curves.epsilon:g}")
    axes.plot([curves.steps], [epsilon[-1]], "ko", markersize=6, label=f"{curves.steps:,} steps")
    axes.set(xlabel="steps taken", ylabel="ε spent (upper bound, no unit)", title="Spent over a run")
    axes.set_xlim(0, curves.steps * 1.04)
    axes.set_ylim(0, max(curves.epsilon, epsilon[-1]) * 1.12)
    style.gridded(axes)
    style.legend(axes, "lower right")


def _needed(axes: Axes, curves: Curves) -> None:
    epsilon, noise = zip(*sorted(curves.needed), strict=True)
    axes.plot(epsilon, noise, color="black", linewidth=1.8, label=f"needed for {curves.steps:,} steps")
    axes.axvline(curves.epsilon, color="black", linestyle="--", linewidth=1, label=f"budget ε = {curves.epsilon:g}")
    axes.plot([curves.spent[-1][1]], [curves.noise], "ko", markersize=6, label=f"σ = {curves.noise:.4g}")
    axes.set_xscale("log")
    ticks = _round_numbers(epsilon[0], epsilon[-1])
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="ε (no unit, logarithmic)", ylabel="noise multiplier σ (in units of the clip C)",
             title="Noise that a budget needs")  # fmt: skip
    axes.set_ylim(0, max(noise) * 1.08)
    style.gridded(axes)
    style.legend(axes, "upper right")


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten from `low` to `high`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
