"""Groups of comparable runs: settings, the series in each, and mean and spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any, TypeVar

import pandas as pd
from dpft.reports.reading.frame import SEARCHED, records
from dpft.reports.reading.names import CHOSEN, SAME_DATA, SAME_PROMISE, Facts, distinguishing_choices, label, titles

T = TypeVar("T")
# What a run without privacy has a value of its own for, or none that matters: its gradients are neither cut nor noisy.
_RATES = ("learning_rate", "head_learning_rate")
_FREE = (*_RATES, "clip", "clipping")


@dataclass(frozen=True)
class Cell:
    """Runs of one spec that differ in the seed alone. `spread`: standard deviation, NaN for one run."""

    budget: float
    runs: tuple[str, ...]
    values: tuple[float, ...]
    epsilon: float
    trainable: int
    step_seconds: float
    memory_mib: float
    where: str

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def spread(self) -> float:
        return stdev(self.values) if self.n > 1 else math.nan

    @property
    def private(self) -> bool:
        return math.isfinite(self.budget)


@dataclass(frozen=True)
class Series:
    """One method with fixed choices of everything but ε and seed. `label`: the method and its distinguishing choices.

    `free`: the learning rates of its non-private runs, where they differ.
    """

    label: str
    method: str
    chosen: Facts
    cells: tuple[Cell, ...]
    free: Facts = field(default_factory=dict)

    def at(self, budget: float) -> Cell | None:
        return next((cell for cell in self.cells if cell.budget == budget), None)


@dataclass(frozen=True)
class Setting:
    """Runs on the same data, model, δ, unit and adjacency, evaluated by the same metric. `facts`: these values."""

    title: str
    facts: Facts
    series: tuple[Series, ...]
    higher_is_better: bool = True

    @property
    def budgets(self) -> list[float]:
        """All requested ε, ascending; infinity for no privacy."""
        return sorted({cell.budget for series in self.series for cell in series.cells})

    @property
    def slug(self) -> str:
        return "".join(c if c.isascii() and c.isalnum() else "-" for c in self.title.lower()).strip("-")


def gather(frame: pd.DataFrame) -> list[Setting]:
    """The settings among the finished runs of `load_runs`; without privacy, a run belongs to each on its data."""
    rows = [_plain(row) for row in records(frame) if row["state"] == "finished" and math.isfinite(row["value"])]
    settings = []
    for shared in _groups(rows, SAME_DATA):
        free = [row for row in shared if not row["private"]]
        promised = _groups([row for row in shared if row["private"]], SAME_PROMISE)
        settings += [[*group, *_beside(free, group)] for group in promised] or [free]
    named, keys = titles([group[0] for group in settings]), distinguishing_choices(settings)
    return [_setting(title, group, keys) for title, group in zip(named, settings, strict=True)]


def _beside(free: Sequence[Facts], private: Sequence[Facts]) -> list[Facts]:
    """Non-private runs, with the learning rate and clipping norm of the private runs that they belong to.

    They belong where all else agrees and both sides have one rate, or where both have the same rate.
    """
    same = [key for key in CHOSEN if key not in _FREE]
    theirs = {tuple(group[0][key] for key in same): group for group in _groups(private, same)}
    found: list[Facts] = []
    for group in _groups(free, same):
        partners = _groups(theirs.get(tuple(group[0][key] for key in same), ()), _FREE)
        alone = len(partners) == 1 and len(_groups(group, _RATES)) == 1
        for row in group:
            own = {key: row[key] for key in _RATES}
            like = [other[0] for other in partners if alone or own.items() <= other[0].items()]
            taken = {key: like[0][key] for key in _FREE} if len(like) == 1 else {}
            found.append({**row, **taken, "free": own})
    return found


def series_order(settings: Sequence[Setting]) -> dict[str, int]:
    """The index of each series by label, so that it has the same style in every chart."""
    everyone = [series for setting in settings for series in setting.series]
    labels = dict.fromkeys(series.label for series in sorted(everyone, key=_order))
    return {label: place for place, label in enumerate(labels)}


def best(setting: Setting, budget: float) -> Series | None:
    """The series whose mean is better than every other's by more than both their spreads together; None where none
    is.

    One run has no spread, so that nothing can be said beside it.
    """
    found = [(series, cell) for series in setting.series if (cell := series.at(budget)) is not None]
    if len(found) < 2 or any(cell.n < 2 for _, cell in found):
        return None
    sign = 1 if setting.higher_is_better else -1
    first, top = max(found, key=lambda one: sign * one[1].mean)
    ahead = all(
        sign * (top.mean - cell.mean) > top.spread + cell.spread for series, cell in found if series is not first
    )
    return first if ahead else None


def _setting(title: str, rows: Sequence[Facts], keys: Mapping[str, list[str]]) -> Setting:
    first = min(rows, key=lambda row: not row["private"])
    facts = {name: first[name] for name in (*SAME_DATA, *SAME_PROMISE)}
    series = [_series(label(group[0], keys), group) for group in _groups(rows, CHOSEN)]
    return Setting(title, facts, tuple(sorted(series, key=_order)), bool(first.get("higher_is_better", True)))


def _order(series: Series) -> tuple[str, int, str]:
    """Sort key: method, then trainable parameters."""
    return series.method, series.cells[0].trainable, series.label


def _series(label: str, rows: Sequence[Facts]) -> Series:
    chosen = {name: rows[0][name] for name in CHOSEN}
    cells = sorted((_cell(group) for group in _groups(rows, ("budget",))), key=lambda cell: cell.budget)
    free: Facts = next((row["free"] for row in rows if "free" in row), {})
    others = {key: rate for key, rate in free.items() if rate != chosen[key]}
    return Series(label, str(chosen["method"]), chosen, tuple(cells), others)


def _cell(rows: Sequence[Facts]) -> Cell:
    known = [row["memory_mib"] for row in rows if math.isfinite(row["memory_mib"])]
    where = sorted({f"{row['device']} {row['precision']}" for row in rows})
    return Cell(
        rows[0]["budget"], tuple(row["run"] for row in rows), tuple(row["value"] for row in rows),
        max(row["epsilon"] for row in rows), int(rows[0]["trainable"]), mean(row["step_seconds"] for row in rows),
        max(known, default=math.nan), ", ".join(where),
    )  # fmt: skip


def _plain(row: Facts) -> dict[str, Any]:
    """As it is compared: None where pandas has NaN, which is not even equal to itself; no value where one was drawn.

    What a search draws differs from seed to seed, and is its outcome, not its choice.
    """
    keys = (*SAME_DATA, *SAME_PROMISE, *CHOSEN)
    drawn = dict.fromkeys(filter(None, row["drawn"].split(", ")), SEARCHED)
    return {**row, **{key: None if pd.isna(row[key]) else row[key] for key in keys}, **drawn}


def _groups(rows: Iterable[Facts], keys: Sequence[str]) -> list[list[Facts]]:
    """Rows that agree in `keys`, in the order of their first."""
    return _grouped(rows, lambda row: tuple(row[key] for key in keys))


def _grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    found: dict[Hashable, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())
