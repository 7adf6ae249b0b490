"""A report as a folder: the page, a text, tables for LaTeX and for programs, figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from dpft.reports import figures, page, style
from dpft.reports.cells import Setting
from dpft.reports.files import write
from dpft.reports.folders import find, read
from dpft.reports.report import CAVEAT, Report, build, check_any
from dpft.reports.spending import Ledger
from dpft.reports.tables import Table, latex, markdown, plain, safe_for_spreadsheets


def write_report(paths: Sequence[str | Path], to: str | Path, ledger: Ledger = ()) -> list[Path]:
    """Write the report on the runs at `paths` into the folder `to`, and return its files, the page first.

    `ledger`: populations as `dpft.privacy.ledger.report` has them, of which those are shown that these runs are
    charged to. Raises UserError where there is no run, or no room.
    """
    runs = [read(folder) for folder in find(paths)]
    ids = {run.about.get("id") for run in runs}
    own = [one for one in ledger if ids & {run["run"] for run in one["runs"]}]
    report = build(runs, own)
    check_any(report, paths)
    written = []
    for name, content in _files(report):
        file = Path(to) / name
        write(content, file, "a report", "pass --to DIR")
        written.append(file)
    return written


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
