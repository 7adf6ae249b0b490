"""Runs that may be compared: settings, the methods in each, and the mean and spread of their repetitions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

import pandas as pd
from dpft.reports.frame import SPEC, records

# Runs that differ in one of these are never drawn together. The second part is unknown without privacy.
_SAME_DATA = ("task", "data", "model", "metric", "units", "unit", "max_per_unit", "canaries")
_SAME_PROMISE = ("delta", "adjacency")
# What one method is told apart by, within a setting: all else that a spec holds, but the seed.
_CHOSEN = ("method", "options", *(n for n in SPEC if n not in (*_SAME_DATA, "method", "seed")))
Facts = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """Repetitions of one spec that differ in their seed alone. `spread`: their standard deviation, NaN for one run."""

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
    """One method with one choice of everything but ε and seed. `label`: the method, and what tells it from its like."""

    label: str
    method: str
    chosen: Facts
    cells: tuple[Cell, ...]

    def at(self, budget: float) -> Cell | None:
        return next((cell for cell in self.cells if cell.budget == budget), None)


@dataclass(frozen=True)
class Setting:
    """Runs on the same data, model, δ, unit and adjacency, judged by the same metric. `facts`: those."""

    title: str
    facts: Facts
    series: tuple[Series, ...]

    @property
    def budgets(self) -> list[float]:
        """Every ε that was asked for, rising; infinity for none."""
        return sorted({cell.budget for series in self.series for cell in series.cells})

    @property
    def slug(self) -> str:
        return "".join(c if c.isascii() and c.isalnum() else "-" for c in self.title.lower()).strip("-")


def gather(frame: pd.DataFrame) -> list[Setting]:
    """The settings among the finished runs of `load_runs`; without privacy, a run belongs to each on its data."""
    rows = [_plain(row) for row in records(frame) if row["state"] == "finished" and math.isfinite(row["value"])]
    settings = []
    for shared in _groups(rows, _SAME_DATA):
        free = [row for row in shared if not row["private"]]
        promised = _groups([row for row in shared if row["private"]], _SAME_PROMISE)
        settings += [[*group, *free] for group in promised] or [free]
    titles, telling = _titles([group[0] for group in settings]), _telling(settings)
    return [_setting(title, group, telling) for title, group in zip(titles, settings, strict=True)]


def best(setting: Setting, budget: float) -> Series | None:
    """The series whose mean leads every other's by more than both their spreads together; None where none does.

    One run has no spread, so that nothing can be said beside it.
    """
    found = [(series, cell) for series in setting.series if (cell := series.at(budget)) is not None]
    if len(found) < 2 or any(cell.n < 2 for _, cell in found):
        return None
    first, top = max(found, key=lambda one: one[1].mean)
    ahead = all(top.mean - cell.mean > top.spread + cell.spread for series, cell in found if series is not first)
    return first if ahead else None


def _setting(title: str, rows: Sequence[Facts], telling: Mapping[str, list[str]]) -> Setting:
    first = min(rows, key=lambda row: not row["private"])
    facts = {name: first[name] for name in (*_SAME_DATA, *_SAME_PROMISE)}
    series = [_series(_label(group[0], telling), group) for group in _groups(rows, _CHOSEN)]
    return Setting(title, facts, tuple(sorted(series, key=lambda one: (one.method, _size(one), one.label))))


def _size(series: Series) -> int:
    return series.cells[0].trainable


def _series(label: str, rows: Sequence[Facts]) -> Series:
    chosen = {name: rows[0][name] for name in _CHOSEN}
    cells = sorted((_cell(group) for group in _groups(rows, ("budget",))), key=lambda cell: cell.budget)
    return Series(label, str(chosen["method"]), chosen, tuple(cells))


def _cell(rows: Sequence[Facts]) -> Cell:
    known = [row["memory_mib"] for row in rows if math.isfinite(row["memory_mib"])]
    where = sorted({f"{row['device']} {row['precision']}" for row in rows})
    return Cell(
        rows[0]["budget"], tuple(row["run"] for row in rows), tuple(row["value"] for row in rows),
        max(row["epsilon"] for row in rows), int(rows[0]["trainable"]), mean(row["step_seconds"] for row in rows),
        max(known, default=math.nan), ", ".join(where),
    )  # fmt: skip


def _plain(row: Facts) -> dict[str, Any]:
    """NaN where pandas says "missing" becomes None in what is compared: NaN is not even equal to itself."""
    keys = (*_SAME_DATA, *_SAME_PROMISE, *_CHOSEN)
    return {**row, **{key: None if pd.isna(row[key]) else row[key] for key in keys}}


def _groups(rows: Iterable[Facts], keys: Sequence[str]) -> list[list[Facts]]:
    """Rows that agree in `keys`, in the order of their first."""
    return _grouped(rows, lambda row: tuple(row[key] for key in keys))


def _grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    found: dict[Hashable, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())


_TOLD: Mapping[str, Callable[[Any], str]] = {
    "delta": lambda x: "no δ" if x is None else f"δ = {x:g}",
    "unit": lambda x: f"unit {x}",
    "max_per_unit": lambda x: "any number a unit" if x is None else f"at most {x} a unit",
    "units": lambda x: f"{x:,.0f} units",
    "canaries": lambda x: f"{x:.0f} canaries planted" if x else "no canaries",
    "metric": str,
    "adjacency": str,
    "data": lambda x: f"data in {x}" if x else "the task's own data",
    "model": str,
}


def _titles(firsts: Sequence[Facts]) -> list[str]:
    """Task and model, and of the rest what tells apart settings of one name."""
    base = [f"{row['task']} · {name_of(row['model'])}" for row in firsts]
    titles = []
    for row, name in zip(firsts, base, strict=True):
        like = [other for other, same in zip(firsts, base, strict=True) if same == name]
        telling = [key for key in _TOLD if len({other[key] for other in like}) > 1]
        titles.append(" · ".join([name, *(_TOLD[key](row[key]) for key in telling)]))
    return titles


def name_of(model: str) -> str:
    """A model's name without the folders that it lies in."""
    return "MiniLM (built in)" if model == "builtin" else Path(model).name


def _telling(settings: Sequence[Sequence[Facts]]) -> dict[str, list[str]]:
    """By method: the choices that tell its series apart in any setting, so that a series has one name in all."""
    found: dict[str, dict[str, None]] = {}
    for rows in settings:
        for like in _groups(rows, ("method",)):
            known = found.setdefault(like[0]["method"], {})
            everyone = [choices(row) for row in like]
            keys = dict.fromkeys(key for one in everyone for key in one)
            known.update(dict.fromkeys(key for key in keys if len({str(one.get(key)) for one in everyone}) > 1))
    return {method: list(keys) for method, keys in found.items()}


def _label(row: Facts, telling: Mapping[str, list[str]]) -> str:
    """The method, and what was chosen where that tells it from its like."""
    chosen = choices(row)
    return " ".join([row["method"], *(f"{key}={_short(chosen.get(key))}" for key in telling[row["method"]])])


def choices(row: Facts) -> dict[str, Any]:
    """All that was chosen for a run but its method: its options, then the rest of `_CHOSEN`."""
    return {**json.loads(row["options"]), **{key: row[key] for key in _CHOSEN[2:]}}


def _short(value: Any) -> str:
    if value is None:
        return "default"
    return f"{value:g}" if isinstance(value, float) else str(value)
