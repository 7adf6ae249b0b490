"""The content of a report, independent of its output formats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from dpft.reports.reading import formatting
from dpft.reports.reading.cells import Setting, gather, series_order
from dpft.reports.reading.folders import RunRecord
from dpft.reports.reading.formatting import MISSING
from dpft.reports.reading.frame import population, records, to_frame
from dpft.reports.reading.names import name_of
from dpft.reports.tables import promises, results, spending
from dpft.reports.tables.spending import Ledger
from dpft.reports.tables.tables import Column, Table, Text

from dpft.errors import UserError
from dpft.runs.statements import VALIDATION

CAVEAT = f"No privacy promise covers {VALIDATION}."


@dataclass(frozen=True)
class Report:
    """`places`: each series' place among all, which gives it the same look in every chart. `notes`: what is odd."""

    written: str
    runs: tuple[RunRecord, ...]
    frame: pd.DataFrame
    settings: tuple[Setting, ...]
    places: Mapping[str, int]
    notes: tuple[str, ...]
    ledger: Ledger

    def in_state(self, state: str) -> int:
        return sum(run.state == state for run in self.runs)

    def of_setting(self, setting: Setting) -> list[Table]:
        """The metric, the cost of privacy, time and memory."""
        found = (results.accuracy(setting), results.gap(setting), results.cost(setting))
        return [table for table in found if table is not None]

    def of_privacy(self) -> list[Table]:
        """Audits, spending of populations, their ledger, tuning."""
        found = (
            promises.audits(self.runs), spending.populations(self.runs, self.ledger),
            spending.charges(self.runs, self.ledger), spending.tuned(self.settings, self.runs),
        )  # fmt: skip
        return [table for table in found if table is not None]

    def of_runs(self) -> list[Table]:
        """All runs, and their privacy statements."""
        found = (every_run(self), promises.statements(self.runs))
        return [table for table in found if table is not None]

    def coverage(self) -> tuple[list[str], list[str]]:
        return promises.coverage(self.runs)


def build(runs: Sequence[RunRecord], ledger: Ledger = ()) -> Report:
    """Build the report on `runs`, finished or not. `ledger`: the current populations in the ledger."""
    frame = to_frame(runs)
    settings = tuple(gather(frame))
    written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    return Report(written, tuple(runs), frame, settings, series_order(settings), tuple(_notes(runs, settings)), ledger)


def check_any(report: Report, paths: Sequence[str | Path]) -> None:
    """Raises UserError where there is not one run to report on."""
    if not any(run.state != "broken" for run in report.runs):
        found = next((f"{run.path.name}: {run.note}" for run in report.runs), "none")
        named = ", ".join(str(path) for path in paths)
        raise UserError(f"a report needs at least one run, got {named!r} ({found}); name folders below runs/")


def every_run(report: Report) -> Table:
    """One row a run, broken ones included."""
    rows = []
    for run, row in zip(report.runs, records(report.frame), strict=True):
        rows.append(_run(row) if run.spec is not None else _broken(run))
    columns = [
        Column("run"), Column("task"), Column("model"), Column("method"), Column("ε asked", True, "no unit"),
        Column("ε proven", True, "upper bound, rounded up: no unit"), Column("δ", True, "no unit"),
        Column("seed", True), Column("metric"), Column("found", True, "on the validation rows"),
        Column("parameters", True, "how many are trained"),
        Column("steps", True), Column("s a step", True), Column("MiB", True, "peak"),
        Column("on"), Column("audit"), Column("state"),
    ]  # fmt: skip
    return Table("runs", "Every run", columns, rows, CAVEAT)


def _run(row: Mapping[str, object]) -> list[Text]:
    values = {key: math.nan if value is None else value for key, value in row.items()}
    scale = formatting.scale(str(values["metric"]))

    def number(key: str, spelt: str) -> Text:
        value = values[key]
        if not isinstance(value, int | float) or math.isnan(value):
            return Text(MISSING)
        return Text("none" if math.isinf(value) else spelt.format(value), float(value))

    found, proven = number("value", "{}"), number("epsilon", "{}")
    shown = MISSING if found.by is None else f"{scale.show(found.by)}{' %' if scale.unit == '%' else ''}"
    upper = "none" if proven.by == math.inf else formatting.proven(proven.by)
    return [
        Text(str(row["run"])), Text(str(row["task"])), Text(name_of(str(row["model"]))), _method(row),
        number("budget", "{:g}"), Text(upper, proven.by), number("delta", "{:g}"), number("seed", "{:.0f}"),
        Text(_known(row["metric"])), Text(shown, found.by), number("trainable", "{:,.0f}"), number("steps", "{:,.0f}"),
        number("step_seconds", "{:.3g}"), number("memory_mib", "{:,.0f}"),
        Text(f"{row['device']} {row['precision']}" if isinstance(row["device"], str) else MISSING),
        Text(_known(row["audit"]), strong=row["audit"] == "FAIL"), _state(row),
    ]  # fmt: skip


def _method(row: Mapping[str, object]) -> Text:
    options = str(row["options"]).strip("{}").replace('"', "").replace(":", "=").replace(",", ", ")
    return Text(f"{row['method']} {options}".strip())


def _state(row: Mapping[str, object]) -> Text:
    state, note = str(row["state"]), str(row["note"])
    canaries = isinstance(row["canaries"], float | int) and row["canaries"] > 0
    marks = [state, *([note] if note else []), *(["contains canaries: not for use"] if canaries else [])]
    return Text("; ".join(marks), strong=state == "broken")


def _known(value: object) -> str:
    return value if isinstance(value, str) else MISSING


def _broken(run: RunRecord) -> list[Text]:
    return [Text(run.path.name), *[Text(MISSING)] * 15, Text(f"broken: {run.note}", strong=True)]


def _notes(runs: Sequence[RunRecord], settings: Sequence[Setting]) -> list[str]:
    """Notes for the reader, one line each."""
    notes = [f"{run.path.name} is {run.state}: {run.note}." for run in runs if run.state == "broken"]
    notes += [f"{run.path.name}: {run.note}." for run in runs if run.state == "finished" and run.note]
    if unfinished := [run.path.name for run in runs if run.state == "unfinished"]:
        names = ", ".join(unfinished[:3]) + (" …" if len(unfinished) > 3 else "")
        notes.append(f"{formatting.plural(len(unfinished), 'run')} without a result so far: {names}.")
    if len(settings) > 1:
        notes.append(
            f"These runs are not all alike: {len(settings)} groups, each with its own title, share no curve or mean."
        )
    cards = {run.path.name: run.card for run in runs if run.state == "finished"}
    for setting in settings:
        cells = [cell for series in setting.series for cell in series.cells]
        ids = {population(cards[name]).get("id") for cell in cells if cell.private for name in cell.runs}
        if len(ids) > 1:
            notes.append(f"{setting.title}: charged to {len(ids)} populations. Are these runs of the same data?")
        if other := [f"{one.label} {_rates(one.free)}" for one in setting.series if one.free]:
            notes.append(f"{setting.title}: without privacy at learning rates of its own: {', '.join(other)}.")
        if any(cell.n == 1 for cell in cells):
            notes.append(f"{setting.title}: single runs are drawn hollow; they have no spread.")
    return notes


def _rates(free: Mapping[str, Any]) -> str:
    """0.003, or head 0.3, or both."""
    said = {"learning_rate": "", "head_learning_rate": "head "}
    return " and ".join(f"{said[key]}{'like all else' if x is None else f'{x:g}'}" for key, x in free.items())
