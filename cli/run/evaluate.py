"""dpft evaluate: the metrics of a finished run."""

from __future__ import annotations

from typing import Annotated

import typer
from dpft.cli import _flags, _show


def evaluate(
    run: _flags.RunArgument,
    data: Annotated[
        str | None, typer.Option(help="Evaluate on this file instead.", metavar="PATH", show_default=False)
    ] = None,
    device: _flags.Device = "auto",
    precision: _flags.Precision = "auto",
    tokens_per_microbatch: _flags.Tokens = None,
    as_json: _flags.Json = False,
) -> None:
    """Evaluate a finished run on its validation set, or on labelled rows of the same columns."""
    from dpft.inference.trained_model import load
    from dpft.runs.privacy_card import NOT_PRIVATE

    trained = load(run, machine=_flags.machine(device, precision, tokens_per_microbatch))
    further, classes = trained.judged(data)
    if trained.private and trained.saw(data):
        _show.say(
            "some of these rows have the text of a training row: the figures are computed on them without noise, and "
            "the run's promise does not cover them"
        )
    table = _show.by_type(further)
    metric = next(iter(further))
    value = further.pop(metric)
    if as_json:
        about = {"run": str(run), "metric": metric, "value": value, "further": further, "classes": classes,
                 "private": trained.private}  # fmt: skip
        _show.print_json(about)
        return
    mark = "" if trained.private else f"   {NOT_PRIVATE}"
    rows = f"the rows of {data}" if data else f"the validation rows of {trained.run.spec.task}"
    print(f"{metric} {value:.4f} on {rows} (without noise){'' if table else _show.beside(further)}{mark}")
    for line in [*table, *_show.by_class(classes)]:
        print(line)
