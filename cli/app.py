"""The verbs, one file each."""

from __future__ import annotations

import typer
from dpft.cli import (
    audit,
    budget,
    compare,
    evaluate,
    export,
    ledger,
    methods,
    predict,
    report,
    reproduce,
    resume,
    tasks,
    train,
)

app = typer.Typer(
    name="dpft",
    help="Fine-tune language models on private text with differential privacy.",
    epilog="Start with: dpft train --epsilon 6.7 --delta 1e-6 --method slash",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("train")(train.train)
app.command("resume")(resume.resume)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("export")(export.export)
app.command("compare")(compare.compare)
app.command("reproduce")(reproduce.reproduce)
app.command("audit")(audit.audit)
app.command("report")(report.report)
app.command("budget")(budget.budget)
app.add_typer(ledger.app, name="ledger")
app.command("methods")(methods.methods)
app.command("tasks")(tasks.tasks)
