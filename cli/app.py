"""The commands, one file each."""

from __future__ import annotations

import typer
from dpft.cli.comparison import compare, report, reproduce
from dpft.cli.planning import budget, ledger, methods, tasks
from dpft.cli.run import audit, evaluate, export, generate, predict, resume, train

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
app.command("resume", short_help="Resume an interrupted run, within its plan.")(resume.resume)
app.command("evaluate", short_help="Evaluate a finished run on its validation set, or on other data.")(
    evaluate.evaluate
)
app.command("predict", short_help="Label texts with a finished run.")(predict.predict)
app.command("generate", short_help="Write synthetic rows with a finished run.")(generate.generate)
app.command("export", short_help="Export a run as an ordinary model, with its privacy card.")(export.export)
app.command("compare", short_help="Compare methods over budgets and seeds.")(compare.compare)
app.command("reproduce", short_help="Run the paper's experiments and compare with its figures.")(reproduce.reproduce)
app.command("audit", short_help="Test whether a run's ε is true.")(audit.audit)
app.command("report", short_help="Show runs as a page, tables and figures.")(report.report)
app.command("budget", short_help="Compute noise multiplier, sampling rate and steps for a budget.")(budget.budget)
app.add_typer(ledger.app, name="ledger")
app.command("methods", short_help="List the methods, or one with its options.")(methods.methods)
app.command("tasks")(tasks.tasks)
