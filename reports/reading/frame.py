"""Run folders as one data frame: one row a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
from dpft.reports.reading.folders import RunRecord, find, number, read

from dpft.runs.statements import stated
from dpft.spec import Spec, canonical_json

# Every field of a spec is a column by its own name, but for those that are spelt otherwise.
_OTHERWISE = ("budget", "options", "start", "tensor_scales", "chosen")
SPEC = tuple(field.name for field in fields(Spec) if field.name not in _OTHERWISE)
SEARCHED = "searched"
COLUMNS = (
    "run", "path", "state", "note", *SPEC, "options", "private", "budget", "epsilon", "delta", "adjacency", "units",
    "noise", "rate", "steps", "accountant", "metric", "value", "higher_is_better", "trainable", "seconds",
    "step_seconds", "memory_mib", "precision", "device", "statement", "population", "audit",
    "lower_bound", "start", "drawn", "tuning",
)  # fmt: skip


def load_runs(paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """Run folders, or folders of them, as a row each: `state` is finished, unfinished or broken, `note` says why.

    `budget` and `epsilon` (an upper bound) are infinite where a run is not private. `value` is the `metric` on the
    validation rows, without noise: no promise covers it; of an error it is better when lower. `step_seconds`: mean
    seconds a step. `memory_mib`: the most that training held. `lower_bound`: the largest that an audit of the trained
    model found. Raises UserError where a path is not there.
    """
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    return to_frame([read(folder) for folder in find(listed)])


def to_frame(runs: Sequence[RunRecord]) -> pd.DataFrame:
    """The rows of `runs`, with every column even where there is none."""
    return pd.DataFrame([_row(run) for run in runs], columns=list(COLUMNS))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as plain dicts."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _row(run: RunRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.path.name, "path": str(run.path), "state": run.state, "note": run.note}
    if run.spec is not None:
        row |= _asked(run.spec)
    if run.state == "finished":
        row |= _found(run.result, run.card)
        row |= _audited(run.audit)
        row |= _chosen(run.card, run.search)
    return row


def _asked(spec: Spec) -> dict[str, Any]:
    """The requested spec. Rates chosen by the recipe are left out: they vary slightly with the seed."""
    own = dict.fromkeys(name for name in spec.chosen if name.endswith("rate"))
    budget = spec.budget
    options = {key: str(value).lower() for key, value in spec.options.items()}  # 64 and "64" are the same choice
    return {
        **{name: getattr(spec, name) for name in SPEC}, **own, "options": canonical_json(options),
        "private": budget is not None, "budget": budget.epsilon if budget else math.inf,
        "delta": budget.delta if budget else math.nan,
    }  # fmt: skip


def _found(result: Mapping[str, Any], card: Mapping[str, Any]) -> dict[str, Any]:
    steps, took = int(result["steps"]), number(result["seconds"])
    seconds = math.nan if took is None else took
    memory = number(result.get("memory_mib"))
    row: dict[str, Any] = {name: result[name] for name in ("metric", "trainable", "precision", "device")}
    row |= {name: card.get(name) for name in ("adjacency", "units", "noise", "rate", "accountant")}
    return row | {
        "statement": stated(card),
        "epsilon": card["epsilon"] if card["private"] else math.inf, "value": number(result["value"]), "steps": steps,
        "higher_is_better": result.get("higher_is_better", True) is not False,
        "seconds": seconds, "step_seconds": seconds / steps if steps > 0 else math.nan,
        "memory_mib": math.nan if memory is None else memory, "population": population(card).get("id"),
    }  # fmt: skip


def _chosen(card: Mapping[str, Any], search: Mapping[str, Any] | None) -> dict[str, Any]:
    """The run's start, the hyper-parameters that a search drew, and what the card says of tuning."""
    tuning, start, ranges = card.get("tuning"), card.get("start"), (search or {}).get("ranges")
    drawn = [key for key in ("learning_rate", "clip") if isinstance(ranges, Mapping) and ranges.get(key) is not None]
    return {
        "start": str(start.get("task")) if isinstance(start, Mapping) else None, "drawn": ", ".join(drawn),
        "tuning": str(tuning.get("statement")) if isinstance(tuning, Mapping) else None,
    }  # fmt: skip


def _audited(audit: Mapping[str, Any] | None) -> dict[str, Any]:
    found = [value for check in bounds(audit) if check["level"] == "model" and (value := check["value"]) is not None]
    verdict = (audit or {}).get("verdict")
    return {"audit": verdict if isinstance(verdict, str) else None, "lower_bound": max(found, default=math.nan)}


def population(card: Mapping[str, Any]) -> Mapping[str, Any]:
    """The card's statement on all runs on the same data; empty without one."""
    found = card.get("population")
    return found if isinstance(found, Mapping) and isinstance(found.get("id"), str) else {}


def bounds(audit: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The lower bounds on ε of an audit: level, name, value and the ε claimed for what was attacked (high)."""
    checks = (audit or {}).get("checks")
    found = []
    for check in checks if isinstance(checks, list) else ():
        if isinstance(check, Mapping) and check.get("kind") == "bound" and not check.get("private"):
            claimed, value = number(check.get("high")), check.get("value")
            value = float(value) if value in ("inf", "nan", "-inf") else number(value)
            found.append({"level": str(check.get("level")), "name": str(check.get("name")), "value": value,
                          "claimed": claimed, "passed": check.get("passed") is True})  # fmt: skip
    return found
