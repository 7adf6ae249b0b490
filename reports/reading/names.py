"""The values that distinguish runs, and the names of settings and series."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpft.reports.reading.frame import SPEC

from dpft.spec import rows_name

Facts = Mapping[str, Any]
# Runs that differ in one of these are never drawn together. The second part is unknown without privacy.
SAME_DATA = ("task", "data", "model", "metric", "units", "unit", "max_per_unit", "canaries")
SAME_PROMISE = ("delta", "adjacency")
# What distinguishes the series of one method, within a setting: all else that a spec holds, but the seed.
CHOSEN = ("method", "options", "start", *(n for n in SPEC if n not in (*SAME_DATA, "method", "seed")))

_WORDING: Mapping[str, Callable[[Any], str]] = {
    "delta": lambda x: "no δ" if x is None else f"δ = {x:g}",
    "unit": lambda x: f"unit {x}",
    "max_per_unit": lambda x: "any number a unit" if x is None else f"at most {x} a unit",
    "units": lambda x: f"{x:,.0f} units",
    "canaries": lambda x: f"{x:.0f} canaries" if x else "no canaries",
    "metric": str,
    "adjacency": str,
    "data": lambda x: f"data in {x}" if x else "the task's own data",
    "model": str,
}


def titles(firsts: Sequence[Facts]) -> list[str]:
    """Titles of settings: task, model, and further values where these are not unique."""
    base = [f"{rows_name(row['task'], row['data'])} · {name_of(row['model'])}" for row in firsts]
    titles = []
    for row, name in zip(firsts, base, strict=True):
        like = [other for other, same in zip(firsts, base, strict=True) if same == name]
        keys = [key for key in _WORDING if len({other[key] for other in like}) > 1]
        titles.append(" · ".join([name, *(_WORDING[key](row[key]) for key in keys)]))
    return titles


def name_of(model: str) -> str:
    """A model's name without the folders that it lies in."""
    return "MiniLM (built in)" if model == "builtin" else Path(model).name


def distinguishing_choices(settings: Sequence[Sequence[Facts]]) -> dict[str, list[str]]:
    """By method, the choices that distinguish its series in any setting, so that a series has one name in all."""
    found: dict[str, dict[str, None]] = {}
    for rows in settings:
        for method in dict.fromkeys(row["method"] for row in rows):
            known = found.setdefault(method, {})
            everyone = [choices(row) for row in rows if row["method"] == method]
            keys = dict.fromkeys(key for one in everyone for key in one)
            known.update(dict.fromkeys(key for key in keys if len({str(one.get(key)) for one in everyone}) > 1))
    return {method: list(keys) for method, keys in found.items()}


def label(row: Facts, distinguishing_choices: Mapping[str, list[str]]) -> str:
    """The method and its distinguishing choices."""
    chosen = choices(row)
    shown = [
        f"{key}={_short(chosen[key])}" for key in distinguishing_choices[row["method"]] if chosen.get(key) is not None
    ]
    return " ".join([row["method"], *shown])


def choices(row: Facts) -> dict[str, Any]:
    """All choices of a run but its method: its options, then the rest of `CHOSEN`."""
    return {**json.loads(row["options"]), **{key: row[key] for key in CHOSEN[2:]}}


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
