"""dpft report: compares runs by metric and ε, from run folders."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from dpft.cli import _flags, _show

from dpft.errors import UserError

if TYPE_CHECKING:
    from dpft.reports.output import WrittenReport

_PORT = 8787


def report(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Run folders, or folders of them. [default: runs]")
    ] = None,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to write. [default: report]")] = None,
    ledger: Annotated[
        str | None,
        typer.Option(metavar="PATH_OR_URL", help="Show the current state of this ledger beside the runs' cards."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve the page on this machine and update it as runs arrive.")
    ] = False,
    port: Annotated[int | None, typer.Option(help=f"For --watch; 0 takes a free one. [default: {_PORT}]")] = None,
    as_json: _flags.Json = False,
) -> None:
    """Compare runs: one HTML page, Markdown, LaTeX and CSV tables, figures as PNG and SVG.

    Reads run folders only, nothing of their private/.
    """
    paths = runs or [Path("runs")]
    if watch:
        if to is not None or ledger is not None or as_json:
            raise UserError("--watch serves a page and writes nothing, got --to, --ledger or --json; drop one")
        _serve(paths, _PORT if port is None else port)
        return
    if port is not None:
        raise UserError(f"a port is for --watch, got --port {port} without; pass --watch")
    from dpft.reports.output import write_report

    if ledger is not None:
        _check_there(ledger)
    written = write_report(paths, to or Path("report"), functools.partial(_populations, ledger) if ledger else None)
    _tell(written, as_json)


def _check_there(ledger: str) -> None:
    from dpft.privacy.ledger import ledger_exists

    if not ledger_exists(ledger):
        raise UserError(f"there must be a ledger, got none at {ledger!r}; pass --ledger")


def _populations(ledger: str, ids: set[str]) -> list[dict[str, Any]]:
    """The populations in the ledger that any of these runs belongs to."""
    from dpft.privacy.ledger import Ledger
    from dpft.privacy.ledger.export import report as population_report

    with Ledger(ledger) as book:
        populations = book.view().populations.values()
        return [population_report(one) for one in populations if ids & {run.terms.run for run in one.runs}]


def _serve(paths: list[Path], port: int) -> None:
    from dpft.reports.watch import LiveReport, Server

    with Server(LiveReport(paths), port) as server:
        print(f"watching {', '.join(map(str, paths))}: open {server.url} (Ctrl-C stops)", flush=True)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print("\nstopped watching")


def _tell(written: WrittenReport, as_json: bool) -> None:
    report, files = written.report, [str(file) for file in written.files]
    states = {state: report.in_state(state) for state in ("finished", "unfinished", "broken")}
    if as_json:
        _show.print_json({**states, "notes": list(report.notes), "files": files})
        return
    print(f"runs        {', '.join(f'{count} {state}' for state, count in states.items() if count)}")
    for note in report.notes[:5]:
        print(f"note        {note}")
    if len(report.notes) > 5:
        print(f"            {len(report.notes) - 5} more in the report")
    print(f"lies in     {files[0]} and {len(files) - 1} files beside it")
