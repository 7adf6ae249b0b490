"""dpft export: export a finished run as an ordinary model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from dpft.cli import _flags, _show


def export(
    run: _flags.RunArgument,
    to: Annotated[Path, typer.Option(help="The new folder.", metavar="DIR", show_default=False)],
    format: Annotated[str, typer.Option(help="hf: transformers loads it. peft, onnx: an adapter, a graph.")] = "hf",
    with_code: Annotated[
        bool,
        typer.Option("--with-code", help="Let hf add a modelling file where stock classes cannot express the run."),
    ] = False,
    as_json: _flags.Json = False,
) -> None:
    """Export a finished run as an ordinary model, with its privacy statement on the model card.

    The export must give the run's logits, or it is refused.
    """
    from dpft.exports import export as carry_away
    from dpft.runs.folder import Run
    from dpft.runs.privacy_card import NOT_PRIVATE
    from dpft.runs.statements import stated

    found = carry_away(run, to, format, with_code)
    if as_json:
        _show.print_json({**dataclasses.asdict(found), "path": str(found.path)})
        return
    card = Run.open(run).read_json("privacy")
    print(f"lies in     {found.path}   ({', '.join(found.files)})")
    print(f"privacy     {NOT_PRIVATE if card is None else stated(card)}")
    for number, line in enumerate(found.usage):
        print(f"{'' if number else 'next':<12}{line}")
