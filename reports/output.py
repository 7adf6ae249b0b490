"""A report as a folder: the page, a text, tables for LaTeX and for programs, figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from dpft.reports import figures, page
from dpft.reports.drawing import style
from dpft.reports.reading.cells import Setting
from dpft.reports.reading.files import write
from dpft.reports.reading.folders import find, read
from dpft.reports.report import CAVEAT, Report, build, check_any
from dpft.reports.tables.spending import Ledger
from dpft.reports.tables.tables import Table, latex, markdown, plain, safe_for_spreadsheets


@dataclass(frozen=True)
class WrittenReport:
    """A report and its files, the page first."""

    report: Report
    files: list[Path]


def write_report(
    paths: Sequence[str | Path], to: str | Path, ledger: Callable[[set[str]], Ledger] | None = None
) -> WrittenReport:
    """Write the report on the runs at `paths` into the folder `to`.

    `ledger` is asked for the populations that hold any of these runs, by their ids; what it says is shown beside the
    cards. Raises UserError where there is no run, or no room.
    """
    runs = [read(folder) for folder in find(paths)]
    ids = {str(run.about["id"]) for run in runs if "id" in run.about}
    report = build(runs, ledger(ids) if ledger else ())
    check_any(report, paths)
    files = []
    for name, content in _files(report):
        file = Path(to) / name
        write(content, file, "a report", "pass --to DIR")
        files.append(file)
    return WrittenReport(report, files)


def _files(report: Report) -> Iterator[tuple[str, bytes]]:
    yield "report.html", page.render(report).encode()
    names = []
    for name, figure in figures.drawn(report):
        names.append(name)
        yield f"figures/{name}.png", style.rendered(figure, "png")
        yield f"figures/{name}.svg", style.rendered(figure, "svg")
    yield "report.md", _text(report, names).encode()
    for name, table in _tables(report):
        yield f"tables/{name}.tex", f"{latex(table)}\n".encode()
    yield "runs.csv", _csv(report.frame)
    yield "cells.csv", _csv(_cells(report.settings))


def _tables(report: Report) -> Iterator[tuple[str, Table]]:
    """Every table with its file's name; those of a setting bear its number where there are several."""
    for number, setting in enumerate(report.settings, 1):
        for table in report.of_setting(setting):
            yield table.name if len(report.settings) == 1 else f"{table.name}-{number}", table
    for table in (*report.of_privacy(), *report.of_runs()):
        yield table.name, table


def _text(report: Report, names: Sequence[str]) -> str:
    """All of it in Markdown."""
    lines = ["# What privacy costs", "", f"Written {report.written} from {len(report.runs)} run folders.", "", CAVEAT]
    if report.notes:
        lines += ["", "## Notes", "", *(f"- {plain(note)}" for note in report.notes)]
    lines += ["", *(f"![{name.replace('-', ' ')}](figures/{name}.svg)" for name in names)]
    for setting in report.settings:
        lines += ["", f"## {plain(setting.title)}", "", page.about(setting)]
        lines += [f"\n{markdown(table)}" for table in report.of_setting(setting)]
    lines += ["", "## Is it true, and what was spent?", *(f"\n{markdown(table)}" for table in report.of_privacy())]
    lines += ["", "## Runs and their promises", *(f"\n{markdown(table)}" for table in report.of_runs())]
    covered, uncovered = report.coverage()
    if covered:
        lines += ["", "Covered:", "", *(f"- {plain(line)}" for line in covered)]
        lines += ["", "Not covered:", "", *(f"- {plain(line)}" for line in uncovered)]
    return "\n".join([*lines, ""])


def _cells(settings: Sequence[Setting]) -> pd.DataFrame:
    """A row a point of the figures: mean, spread and n of runs that differ in their seed alone."""
    rows = [
        {
            **setting.facts, "setting": setting.title, "series": series.label, **series.chosen, "budget": cell.budget,
            "epsilon": cell.epsilon, "n": cell.n, "mean": cell.mean, "standard_deviation": cell.spread,
            "least": min(cell.values), "most": max(cell.values), "trainable": cell.trainable,
            "step_seconds": cell.step_seconds, "memory_mib": cell.memory_mib, "where": cell.where,
        }
        for setting in settings for series in setting.series for cell in series.cells
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _csv(frame: pd.DataFrame) -> bytes:
    safe = frame.map(lambda value: safe_for_spreadsheets(value) if isinstance(value, str) else value)
    return bytes(safe.to_csv(index=False).encode())
