"""dpft generate: synthetic data from a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from dpft.cli import _flags, _show


def generate(
    run: _flags.RunArgument,
    count: Annotated[int, typer.Option(help="Number of rows.")],
    to: Annotated[Path, typer.Option(help="The new file: .jsonl, .csv or .parquet.", metavar="FILE")],
    prompts: Annotated[
        Path | None,
        typer.Option(help="Prompts to write after, used in turn: one a line of a .txt, or the run's prompt column."),
    ] = None,
    label_shares: Annotated[
        str | None,
        typer.Option(metavar="NAME=S,…", help="How often each label is drawn: a=.3,b=.7. [default: as released]"),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Below 1 likelier tokens are drawn more often; 0: always.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens of this total probability.")] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of a row.")] = 128,
    seed: Annotated[int, typer.Option(help="Public.")] = 0,
    device: _flags.Device = "auto",
    precision: _flags.Precision = "auto",
    as_json: _flags.Json = False,
) -> None:
    """Write synthetic rows with a finished run. They are covered by its promise: writing more costs no privacy.

    An interrupted call goes on where it was, by the same command.
    """
    from dpft.generation.synthesis import Request, prompts_of
    from dpft.generation.synthesis import generate as write
    from dpft.inference.trained_model import load
    from dpft.inference.writing import Sampling
    from dpft.runs.privacy_card import NOT_PRIVATE

    trained = load(run, machine=_flags.machine(device, precision, None))
    request = Request(
        count, Sampling(temperature, top_p, max_new_tokens, seed),
        () if prompts is None else prompts_of(prompts, trained.run.spec.prompt),
        _flags.numbers(label_shares, "--label-shares"),
    )  # fmt: skip
    with _show.counter("writing", "rows") as stepped:
        found = write(trained, to, request, stepped)
    if as_json:
        _show.print_json({"path": str(found.path), "rows": found.rows, "notes": found.notes,
                          "private": trained.private})  # fmt: skip
        return
    for note in found.notes:
        _show.say(note)
    print(f"saved to    {found.path}   ({found.rows} rows{'' if trained.private else f', {NOT_PRIVATE}'})")
    print(f"next        dpft evaluate {run} --synthetic {found.path}")
