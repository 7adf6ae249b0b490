"""The page's charts as SVG: accuracy over ε, and over trainable parameters. Every point tells its n and spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpft.reports.drawing.style import COLOURS, look
from dpft.reports.drawing.svg import Axis, line, marker, path, tag, text, ticks
from dpft.reports.reading import formatting
from dpft.reports.reading.cells import Cell, Series, Setting
from markupsafe import Markup

Places = Mapping[str, int]  # each series' place among all, by its label: decides colour, marker and dashes


@dataclass(frozen=True)
class Frame:
    """A chart's size in pixels, and the margins around what is drawn."""

    width: float
    height: float
    left: float = 58
    right: float = 14
    top: float = 12
    bottom: float = 44
    kind: str = ""

    def vertical(self, low: float, high: float) -> Axis:
        return Axis(low, high, self.height - self.bottom, self.top)

    def holding(self, drawn: Sequence[Markup], label: str) -> Markup:
        kind = {"class_": f"chart {self.kind}".strip(), "viewBox": f"0 0 {self.width:g} {self.height:g}", "role": "img"}
        return tag("svg", *drawn, aria_label=label, **kind)


WIDE, NARROW, SMALL = Frame(900, 400, right=165, kind="broad"), Frame(360, 330, kind="slim"), Frame(330, 250)
_FREE = 74  # pixels for what has no ε, beyond the last that has
_MIN_GAP = 15  # pixels between two labels


def privacy_utility(setting: Setting, places: Places, frame: Frame = WIDE) -> Markup:
    """The metric over the budgets ε, on a logarithmic axis; runs without privacy stand apart, on no curve."""
    scale, metric = formatting.scale(setting.facts["metric"]), setting.facts["metric"]
    y = frame.vertical(*extent(setting))
    across = _across(setting, frame)
    drawn = [*_rows(frame, y, metric), *_columns(setting, frame, across)]
    ends: list[tuple[float, float, Series]] = []
    for number, series in enumerate(setting.series):
        shift = _shift(number, len(setting.series))
        points = [(across[cell.budget] + shift, y(cell.mean), cell) for cell in series.cells]
        curve = [(px, py) for px, py, cell in points if cell.private]
        parts = [path(curve, class_="curve", **_dashed(places[series.label]))] if len(curve) > 1 else []
        parts += [_point(series, cell, px, y, places, scale) for px, _, cell in points]
        drawn.append(_grouped(series, places, parts))
        ends.append((*points[-1][:2], series))
    if frame.right > 100:
        drawn += _named(ends, frame, places)
    return frame.holding(drawn, f"{metric} over the privacy budget ε, {setting.title}")


def parameters(setting: Setting, places: Places, budget: float) -> Markup:
    """The metric over how many parameters are trained, at one ε (Gupta et al. 2023, figure 1)."""
    scale, metric, frame = formatting.scale(setting.facts["metric"]), setting.facts["metric"], SMALL
    sizes = [cell.trainable for series in setting.series for cell in series.cells]
    low, high = min(sizes) / 1.5, max(sizes) * 1.5
    x, y = Axis(low, high, frame.left, frame.width - frame.right, log=True), frame.vertical(*extent(setting))
    drawn = list(_rows(frame, y, metric))
    powers = [10.0**p for p in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    for size in powers if len(powers) > 1 else sorted({min(sizes), max(sizes)}):
        drawn += _tick(frame, x(size), formatting.count(size))
    drawn.append(_below(frame, "trainable parameters (count, logarithmic)"))
    shown = [(series, cell) for series in setting.series if (cell := series.at(budget)) is not None]
    for method in dict.fromkeys(series.method for series, _ in shown):
        like = [(x(cell.trainable), y(cell.mean)) for series, cell in shown if series.method == method]
        if len(like) > 1:
            drawn.append(path(like, class_="kin"))
    for series, cell in shown:
        drawn.append(_grouped(series, places, [_point(series, cell, x(cell.trainable), y, places, scale)]))
    return frame.holding(drawn, f"{metric} over trainable parameters at {formatting.epsilon(budget)}, {setting.title}")


def swatch(place: int) -> Markup:
    """A piece of a series' line with its marker, for legends."""
    stroke = line(1, 8, 33, 8, class_="curve", **_dashed(place))
    mark = marker(look(place).marker, 17, 8, class_="mark")
    return tag("svg", stroke, mark, class_=f"swatch {ink(place)}", viewBox="0 0 34 16", aria_hidden="true")


def ink(place: int) -> str:
    """The class that gives a series its colour, by light and by dark."""
    return f"s{place % len(COLOURS)}"


def extent(setting: Setting) -> tuple[float, float]:
    """From the lowest to the highest run or end of a bar, with a little room."""
    cells = [cell for series in setting.series for cell in series.cells]
    bars = [cell.mean + side * (cell.spread if cell.n > 1 else 0.0) for cell in cells for side in (-1, 1)]
    ends = [*bars, *(value for cell in cells for value in cell.values)]
    room = 0.06 * (max(ends) - min(ends)) or 0.01
    return min(ends) - room, max(ends) + room


def _across(setting: Setting, frame: Frame) -> dict[float, float]:
    """Where each budget stands. Without privacy there is no ε: its place is beyond the axis."""
    budgets = [budget for budget in setting.budgets if math.isfinite(budget)]
    free = len(budgets) < len(setting.budgets)
    room = min(22.0, frame.width / 24)
    end = frame.width - frame.right - room - (_FREE if free and budgets else 0)
    axis = Axis(min(budgets, default=1), max(budgets, default=1), frame.left + room, end, log=True)
    places = {budget: axis(budget) for budget in budgets}
    return places | ({math.inf: frame.width - frame.right - room} if free else {})


def _rows(frame: Frame, y: Axis, metric: str) -> list[Markup]:
    """The vertical axis: its lines, figures and name."""
    scale = formatting.scale(metric)
    steps = ticks(y.low * scale.factor, y.high * scale.factor, 6)
    digits = 0 if all(float(step).is_integer() for step in steps) else 1 if scale.factor > 1 else 2
    drawn = []
    for step in steps:
        height = y(step / scale.factor)
        drawn.append(line(frame.left, height, frame.width - frame.right, height, class_="grid"))
        drawn.append(text(frame.left - 8, height + 4, f"{step:.{digits}f}", class_="tick", text_anchor="end"))
    middle = (frame.top + frame.height - frame.bottom) / 2
    drawn.append(text(0, 0, f"{metric} ({scale.unit})", class_="axis", text_anchor="middle",
                      transform=f"translate(11 {middle:.0f}) rotate(-90)"))  # fmt: skip
    return drawn


def _columns(setting: Setting, frame: Frame, across: Mapping[float, float]) -> list[Markup]:
    """The horizontal axis: a tick for each budget where there is room, and the place of those without."""
    drawn, last = [], -math.inf
    for budget, x in across.items():
        if math.isfinite(budget) and x - last > 26:
            drawn += _tick(frame, x, f"{budget:g}")
            last = x
    private = [x for budget, x in across.items() if math.isfinite(budget)]
    if math.inf in across:
        x = across[math.inf]
        drawn += _tick(frame, x, "none")
        if private:
            apart = (x + private[-1]) / 2
            drawn.append(line(apart, frame.top, apart, frame.height - frame.bottom, class_="apart"))
    name = "privacy budget ε (no unit, logarithmic)" if private else "no privacy"
    return [*drawn, _below(frame, name, (private[0] + private[-1]) / 2 if private else None)]


def _tick(frame: Frame, x: float, words: str) -> list[Markup]:
    foot = frame.height - frame.bottom
    return [
        line(x, foot, x, foot + 4, class_="foot"),
        text(x, foot + 18, words, class_="tick", text_anchor="middle"),
    ]


def _below(frame: Frame, name: str, middle: float | None = None) -> Markup:
    at = (frame.left + frame.width - frame.right) / 2 if middle is None else middle
    at = max(at, 4 + 3.05 * len(name))  # half the text's width: it begins within the chart
    return text(at, frame.height - 6, name, class_="axis", text_anchor="middle")


def _point(series: Series, cell: Cell, x: float, y: Axis, places: Places, scale: formatting.Scale) -> Markup:
    """A mark with a bar of one standard deviation to each side and a circle for each run; hollow where it is one."""
    parts = []
    if cell.n > 1:
        low, high = y(cell.mean - cell.spread), y(cell.mean + cell.spread)
        parts.append(tag("path", d=f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6",
                         class_="spread"))  # fmt: skip
        parts += [tag("circle", cx=float(x), cy=float(y(value)), r=1.9, class_="run") for value in cell.values]
    kind = "mark" if cell.n > 1 else "mark hollow"
    parts.append(marker(look(places[series.label]).marker, x, y(cell.mean), class_=kind))
    proven = f" (proven {formatting.proven(cell.epsilon)})" if cell.private else ""
    spread = "no spread" if cell.n < 2 else "mean ± standard deviation"
    unit = f" {scale.unit}" if scale.unit == "%" else ""
    tip = (f"{series.label}\n{scale.cell(cell)}{unit}\n{formatting.epsilon(cell.budget)}{proven}\n"
           f"{formatting.plural(cell.n, 'run')}, {spread}\n{cell.trainable:,} trainable parameters")  # fmt: skip
    return tag("g", tag("title", tip), *parts, class_="point", tabindex="0", data_tip=tip)


def _grouped(series: Series, places: Places, parts: Sequence[Markup]) -> Markup:
    return tag("g", *parts, class_=ink(places[series.label]), data_series=series.label)


def _dashed(place: int) -> dict[str, object]:
    dashes = look(place).dashes
    return {"stroke_dasharray": " ".join(f"{d:g}" for d in dashes)} if dashes else {}


def _shift(number: int, count: int) -> float:
    """Sideways, so that bars of the same ε stand beside each other."""
    return (number - (count - 1) / 2) * min(6.0, 30.0 / max(1, count))


def _named(ends: Sequence[tuple[float, float, Series]], frame: Frame, places: Places) -> list[Markup]:
    """Each series' name beside its last point, moved apart where they would meet."""
    order = sorted(ends, key=lambda end: end[1])
    if len(order) * _MIN_GAP > frame.height - frame.bottom:
        return []  # the legend above names them
    heights: list[float] = []
    for _, y, _ in order:
        heights.append(max(y, heights[-1] + _MIN_GAP) if heights else y)
    over = max(0.0, heights[-1] - (frame.height - frame.bottom))
    for n in range(len(heights) - 1, -1, -1):
        most = heights[n + 1] - _MIN_GAP if n + 1 < len(heights) else heights[n] - over
        heights[n] = min(heights[n], most)
    right, drawn = frame.width - frame.right + 12, []
    for (x, y, series), height in zip(order, heights, strict=True):
        name = series.label if len(series.label) < 21 else f"{series.label[:19]}…"
        leads = path([(x + 7, y), (right - 5, height)], class_="lead-in")
        drawn.append(_grouped(series, places, [leads, text(right, height + 4, name, class_="name")]))
    return drawn
