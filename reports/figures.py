"""Figures of a report, as files and for notebooks: readable in black and white, each point with n and spread."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
from dpft.reports.drawing import bars, style
from dpft.reports.reading import formatting
from dpft.reports.reading.cells import Cell, Series, Setting, gather, series_order
from dpft.reports.reading.frame import bounds
from dpft.reports.tables import results

from dpft.errors import UserError

if TYPE_CHECKING:
    from dpft.reports.report import Report
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Places = Mapping[str, int]
_ACROSS = 2  # panels beside each other


def plot_privacy_utility(frame: pd.DataFrame) -> Figure:
    """The metric over the privacy budget ε, of the runs that `load_runs` found.

    A panel for each setting: runs on other data, or with another δ, unit or adjacency, never share a curve. Raises
    UserError where no run is finished.
    """
    settings = gather(frame)
    if not settings:
        raise UserError("a figure needs a finished run, got none; pass load_runs of a folder that holds one")
    return utility(settings, series_order(settings))


def drawn(report: Report) -> Iterator[tuple[str, Figure]]:
    """Each figure of a report, with its file's name."""
    if report.settings:
        yield "accuracy-over-epsilon", utility(report.settings, report.places)
        yield "accuracy-over-parameters", parameters(report.settings, report.places)
        yield "time-and-memory", bars.costs(report.settings)
    if any(results.gaps(setting) for setting in report.settings):
        yield "private-minus-non-private", gaps(report.settings, report.places)
    if any(bounds(run.audit) for run in report.runs):
        yield "claimed-and-audited", bars.audited(report.runs)


def utility(settings: Sequence[Setting], places: Places) -> Figure:
    """The metric over ε, logarithmic; what has no privacy stands apart on the right."""
    figure, panels = _panels(len(settings), 4.6)
    for axes, setting in zip(panels, settings, strict=True):
        for number, series in enumerate(setting.series):
            _curve(axes, series, setting, places[series.label], _shift(number, setting))
        _budgets(axes, setting.budgets)
        _finish(axes, setting, f"{setting.title}\n{_promise(setting)}")
    return _explained(figure, settings, places)


def parameters(settings: Sequence[Setting], places: Places) -> Figure:
    """The metric over trainable parameters, a panel for each ε (Gupta et al. 2023, figure 1)."""
    wanted = [(setting, budget) for setting in settings for budget in setting.budgets]
    figure, panels = _panels(len(wanted), 3.8)
    for axes, (setting, budget) in zip(panels, wanted, strict=True):
        for series in setting.series:
            if (cell := series.at(budget)) is not None:
                _point(axes, cell.trainable, cell, setting, places[series.label])
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xlabel("trainable parameters (count, logarithmic)")
        _finish(axes, setting, f"{setting.title}, {formatting.epsilon(budget)}")
    return _explained(figure, settings, places)


def gaps(settings: Sequence[Setting], places: Places) -> Figure:
    """Private minus non-private over ε, with the spread of the difference."""
    shown = [setting for setting in settings if results.gaps(setting)]
    figure, panels = _panels(len(shown), 4.2)
    for axes, setting in zip(panels, shown, strict=True):
        scale = formatting.scale(setting.facts["metric"])
        for number, series in enumerate(setting.series):
            found = [gap for gap in results.gaps(setting) if gap.series is series]
            if not found:
                continue
            look, factor = style.look(places[series.label]), _shift(number, setting)
            axes.errorbar(
                [gap.cell.budget * factor for gap in found], [gap.value * scale.factor for gap in found],
                yerr=[0 if math.isnan(gap.spread) else gap.spread * scale.factor for gap in found], color=look.colour,
                marker=look.marker, dashes=look.dashes or (None, None), capsize=2.5, linewidth=1.4, markersize=5.5,
            )  # fmt: skip
        axes.axhline(0, color="black", linewidth=0.8)
        _budgets(axes, [budget for budget in setting.budgets if math.isfinite(budget)])
        _finish(axes, setting, setting.title)
        axes.set_ylabel(f"private − non-private {setting.facts['metric']}\n({scale.apart})")
    return _explained(figure, shown, places, runs=False)


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(count, _ACROSS)
    rows = -(-count // columns)
    figure = style.figure(6.4 * columns, height * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in grid[count:]:
        spare.remove()
    return figure, list(grid[:count])


def _curve(axes: Axes, series: Series, setting: Setting, place: int, factor: float) -> None:
    scale, look = formatting.scale(setting.facts["metric"]), style.look(place)
    private = [cell for cell in series.cells if cell.private]
    if len(private) > 1:
        axes.plot(
            [cell.budget * factor for cell in private], [cell.mean * scale.factor for cell in private],
            color=look.colour, dashes=look.dashes or (None, None), linewidth=1.4,
        )  # fmt: skip
    for cell in series.cells:
        at = cell.budget if cell.private else _beyond(setting.budgets)
        _point(axes, at * factor, cell, setting, place)


def _point(axes: Axes, x: float, cell: Cell, setting: Setting, place: int) -> None:
    """A mean with its spread and its runs; where the settings' points have different n, its own n beside it."""
    scale, look = formatting.scale(setting.facts["metric"]), style.look(place)
    if cell.n > 1:
        axes.plot(
            [x] * cell.n, [value * scale.factor for value in cell.values], color=look.colour, marker="o",
            linestyle="none", markersize=3.2, markerfacecolor="white", markeredgewidth=0.8, zorder=2.5,
        )  # fmt: skip
    if len({other.n for series in setting.series for other in series.cells}) > 1:
        axes.annotate(f"n {cell.n}", (x, cell.mean * scale.factor), (6, 4), textcoords="offset points", fontsize=7)
    mark, _, _ = axes.errorbar(
        x, cell.mean * scale.factor, yerr=None if cell.n < 2 else cell.spread * scale.factor, color=look.colour,
        marker=look.marker, capsize=2.5, markersize=5.5, elinewidth=1.1, linestyle="none",
        markerfacecolor=look.colour if cell.n > 1 else "white",
    )  # fmt: skip
    mark.set_zorder(3)


def _explained(figure: Figure, settings: Sequence[Setting], places: Places, *, runs: bool = True) -> Figure:
    """With a legend of all series below, and what a point is. `runs`: each of them is drawn."""
    cells = [cell for setting in settings for series in setting.series for cell in series.cells]
    labels = series_order(settings)
    hollow = "; hollow: one run, no spread" if any(cell.n == 1 for cell in cells) else ""
    each = " (small circles)" if any(cell.n > 1 for cell in cells) and runs else ""
    title = f"a point: mean of {formatting.counts(cells)}{each}, bar: ± one standard deviation{hollow}"
    style.legend_below(figure, {label: style.look(places[label]) for label in labels}, title)
    return figure


def _budgets(axes: Axes, budgets: Sequence[float]) -> None:
    """Ticks at the budgets themselves; beyond them, apart, those without."""
    finite = [budget for budget in budgets if math.isfinite(budget)]
    ticks = {budget: f"{budget:g}" for budget in finite}
    if len(finite) < len(budgets):
        ticks[_beyond(budgets)] = "no\nprivacy"
        if finite:
            axes.axvline(finite[-1] * (_beyond(budgets) / finite[-1]) ** 0.5, color="0.5", linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlim(*_ends(budgets))
    axes.minorticks_off()
    axes.set_xlabel("privacy budget ε (no unit, logarithmic)")


def _beyond(budgets: Sequence[float]) -> float:
    """Where those without privacy stand on an axis of ε."""
    finite = [budget for budget in budgets if math.isfinite(budget)]
    return max(finite[-1] * 1.6, finite[-1] * (finite[-1] / finite[0]) ** 0.25) if finite else 1.0


def _ends(budgets: Sequence[float]) -> tuple[float, float]:
    """Where an axis of ε begins and ends."""
    finite = [budget for budget in budgets if math.isfinite(budget)]
    return min(finite, default=1.0) / 1.3, 1.3 * (finite[-1] if len(finite) == len(budgets) else _beyond(budgets))


def _shift(number: int, setting: Setting) -> float:
    """A factor sideways, so that bars of the same ε stand beside each other: a small share of the axis."""
    low, high = _ends(setting.budgets)
    return float((high / low) ** (0.007 * (number - (len(setting.series) - 1) / 2)))


def _finish(axes: Axes, setting: Setting, title: str) -> None:
    scale = formatting.scale(setting.facts["metric"])
    axes.set_ylabel(f"{setting.facts['metric']} on the validation rows ({scale.unit})")
    axes.set_title(title, fontsize=10)
    style.gridded(axes, "y")


def _promise(setting: Setting) -> str:
    if setting.facts["delta"] is None:
        return "nothing private"
    return f"δ = {setting.facts['delta']:g}, {setting.facts['adjacency']}"
