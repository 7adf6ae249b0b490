"""An audit, drawn: bounds on epsilon beside what is claimed, statistics within their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dpft.reports.drawing import style
from matplotlib.axes import Axes

_MOST = 26  # statistics that are drawn: those nearest to a limit
_BEYOND = 1.35  # where a value far outside its interval is drawn

Check = Mapping[str, Any]


def draw(audit: Mapping[str, Any]) -> bytes:
    """A PNG of audit.json. No colour carries meaning: what fails is a cross, what passes a dot."""
    checks = audit["checks"]
    bounds = [c for c in checks if c["kind"] == "bound"]
    limited = [c for c in checks if c["level"] == "path" and c["kind"] != "bound" and _two_sided(c)]
    shown = sorted(sorted(limited, key=_place)[-_MOST:], key=limited.index)
    rows = max(len(bounds), len(shown), 4)
    figure = style.figure(13, 1.8 + 0.27 * rows)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    _bounds(left, bounds, audit.get("claimed_epsilon"))
    _statistics(right, shown, len(limited))
    figure.suptitle(
        f"{audit['verdict']}: audit of {audit['run']} at confidence {audit['confidence']:g}", fontsize=11, weight="bold"
    )
    return style.rendered(figure, "png")


def _bounds(axes: Axes, checks: Sequence[Check], claimed: float | None) -> None:
    for row, check in enumerate(checks):
        value, high = _number(check["value"]), _number(check["high"])
        axes.plot([0, high], [row, row], color="0.75", linewidth=5, solid_capstyle="butt")
        axes.plot([high, high], [row - 0.32, row + 0.32], color="black", linewidth=1.6)
        _mark(axes, min(value, 1.2 * high), row, check)
        axes.annotate(f"{value:.2f} of {high:.2f}", (high, row), (6, 0), textcoords="offset points", va="center",
                      fontsize=8)  # fmt: skip
    if claimed is not None:
        axes.axvline(claimed, color="black", linestyle="--", linewidth=1)
    most = max([_number(c["high"]) for c in checks] + [claimed or 0.0, 1.0])
    dashed = "" if claimed is None else f"; dashed: the whole run's, {claimed:.4g}"
    axes.set(xlabel=f"ε (no unit){dashed}", title="Lower bounds found (dot) beside the ε claimed (bar's end)")
    axes.set_xlim(0, 1.28 * most)
    style.rows_named(axes, [c["name"].removeprefix("ε, ") for c in checks])


def _statistics(axes: Axes, checks: Sequence[Check], all_of_them: int) -> None:
    """Each interval stretched to -1 .. 1."""
    axes.axvspan(-1, 1, color="0.9")
    for edge in (-1, 1):
        axes.axvline(edge, color="black", linewidth=1)
    for row, check in enumerate(checks):
        _mark(axes, _position(check), row, check)
        low, high = check["low"], check["high"]
        label = f"{_number(check['value']):.5g}  in  {low:.5g} .. {high:.6g}"
        axes.annotate(label, (1.42, row), va="center", fontsize=7, annotation_clip=False)
    axes.set_xlim(-1.4, 3.6)  # room for the figures
    axes.set_xticks([-1, 1], ["low", "high"])
    rest = all_of_them - len(checks)
    more = f" ({rest} more lie farther inside)" if rest else ""
    axes.set(xlabel="the interval that a sound path keeps to", title=f"Statistics within their intervals{more}")
    style.rows_named(axes, [c["name"] for c in checks])


def _mark(axes: Axes, x: float, row: int, check: Check) -> None:
    passed = bool(check["passed"])
    axes.plot([x], [row], marker="o" if passed else "X", markersize=5 if passed else 9, color="black", clip_on=False)


def _two_sided(check: Check) -> bool:
    return check["low"] is not None and check["high"] is not None and check["low"] < check["high"]


def _place(check: Check) -> float:
    return abs(_position(check))


def _position(check: Check) -> float:
    middle, half = (check["low"] + check["high"]) / 2, (check["high"] - check["low"]) / 2
    place = (_number(check["value"]) - middle) / half
    return max(-_BEYOND, min(_BEYOND, place)) if not math.isnan(place) else _BEYOND


def _number(value: float | str | None) -> float:
    """A number as audit.json has it: an infinite one is a word."""
    return float(value if value is not None else "nan")
