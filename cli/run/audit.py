"""dpft audit: tests the privacy claim of a finished run."""

from __future__ import annotations

from typing import Annotated

import typer
from dpft.cli import _flags, _show

from dpft.errors import UserError

_LEVELS = ("bookkeeping", "path", "model")


def audit(
    run: _flags.RunArgument,
    level: Annotated[
        str, typer.Option(help="bookkeeping (seconds), path (minutes), model (reads the run's data), or all.")
    ] = "all",
    steps: Annotated[int, typer.Option(help="Steps of the attack on the mechanism: more find smaller faults.")] = 128,
    confidence: Annotated[float, typer.Option(help="Smallest probability that a correct run passes.")] = 0.99,
    as_json: _flags.Json = False,
) -> int:
    """Audit a finished run: its records, the training mechanism, and the trained model.

    Ends with exit code 1 where a check fails. Writes audit.json and audit.png into the run's folder.
    """
    if level not in (*_LEVELS, "all"):
        raise UserError(f"level must be one of {', '.join(_LEVELS)}, all, got {level!r}; pass --level all")
    from dpft.reports.drawing.audit import draw

    from dpft.audit.bookkeeping import LOOSER
    from dpft.audit.run_audit import audit as look
    from dpft.audit.run_audit import named
    from dpft.runs.folder import write

    bar = _show.Bar()
    try:
        report = look(run, named(level), steps=steps, confidence=confidence, progress=bar)
    finally:
        bar.ended()
    write(run / "audit.png", draw(report.to_json()))
    if as_json:
        _show.print_json(report.to_json())
    else:
        print(report.table())
        for check in report.failed:
            print(f"FAIL        {check.name}: {check.about}" if check.about else f"FAIL        {check.name}")
        for check in report.checks:
            if check.kind == "figure" and check.about == LOOSER:
                print(f"note        {check.name}: {check.about}")
        verdict = "PASS" if report.passed else "FAIL"
        print(f"verdict     {verdict}: a correct run passes with probability {confidence:g} or more")
        print(f"lies in     {run / 'audit.json'}, {run / 'audit.png'}")
    return 0 if report.passed else 1
