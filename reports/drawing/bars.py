"""Figures of bars: time and memory, and claimed ε beside audited lower bounds. No colour carries meaning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dpft.reports.drawing import style
from dpft.reports.reading.cells import Series, Setting
from dpft.reports.reading.folders import RunRecord
from dpft.reports.reading.frame import bounds
from dpft.reports.tables import results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_AUDITED = 40  # lower bounds drawn: those nearest to what is claimed


def costs(settings: Sequence[Setting]) -> Figure:
    """Seconds a step and peak MiB, private beside not private."""
    rows = [(setting, *found) for setting in settings for found in results.costs(setting)]
    figure = style.figure(11, 1.6 + 0.42 * len(rows))
    for axes, name, unit in zip(figure.subplots(1, 2, sharey=True), ("seconds", "memory"), _UNITS, strict=True):
        for shift, place, label in ((-0.2, 2, "private"), (0.2, 3, "not private")):
            values = [getattr(row[place], name) for row in rows]
            known = [(n + shift, value) for n, value in enumerate(values) if math.isfinite(value)]
            fill, hatch = ("0.25", None) if place == 2 else ("white", "///")
            axes.barh([y for y, _ in known], [value for _, value in known], height=0.36, label=label, color=fill,
                      edgecolor="0.25", hatch=hatch)  # fmt: skip
        axes.set_xlabel(unit)
        style.rows_named(axes, [_row_name(setting, series, len(settings)) for setting, series, *_ in rows])
    style.legend(axes, "best")
    return figure


_UNITS = ("time a step (seconds)", "peak memory (MiB)")


def audited(runs: Sequence[RunRecord]) -> Figure:
    """Lower bounds that audits found, beside the ε claimed for what each attacked."""
    found = [(run, one) for run in runs for one in bounds(run.audit) if one["claimed"] and one["value"] is not None]
    nearest = sorted(found, key=lambda item: -item[1]["value"] / item[1]["claimed"])[:_MOST_AUDITED]
    figure = style.figure(9, 1.6 + 0.27 * len(nearest))
    axes = figure.subplots()
    for row, (_, one) in enumerate(nearest):
        axes.plot([0, one["claimed"]], [row, row], color="0.8", linewidth=5, solid_capstyle="butt")
        axes.plot([one["claimed"]] * 2, [row - 0.3, row + 0.3], color="black", linewidth=1.6)
        axes.plot(min(one["value"], 1.2 * one["claimed"]), row, color="black", marker="o" if one["passed"] else "X")
    style.rows_named(axes, [f"{run.path.name}: {one['name'].removeprefix('ε, ')}" for run, one in nearest])
    axes.set_xlabel("ε (no unit): lower bound found (dot; cross: beyond the claim) beside the ε claimed (bar's end)")
    axes.set_xlim(left=0)
    return figure


def _row_name(setting: Setting, series: Series, settings: int) -> str:
    return series.label if settings == 1 else f"{series.label}, {setting.title}"
