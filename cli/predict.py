"""dpft predict: label texts with a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from dpft.cli import _flags, _show

from dpft.spec import UserError


def predict(
    run: _flags.RunArgument,
    text: Annotated[list[str] | None, typer.Option(help="A text; may be given many times.")] = None,
    pair: Annotated[list[str] | None, typer.Option(help="Its partner, for tasks of pairs; one per --text.")] = None,
    file: Annotated[Path | None, typer.Option(help="A UTF-8 file: one text a line, a pair separated by a tab.")] = None,
    device: _flags.Device = "auto",
    precision: _flags.Precision = "auto",
    tokens_per_microbatch: _flags.Tokens = None,
    as_json: _flags.Json = False,
) -> None:
    """Label texts: one line each, the label, its probability, the text."""
    texts, pairs = list(text or []), list(pair or [])
    if bool(texts) == bool(file):
        raise UserError("predict needs texts, got both or neither of --text and --file; pass one of them")
    if file:
        texts, pairs = _lines(file)
    from dpft.card import NOT_PRIVATE
    from dpft.trained import load

    trained = load(run, machine=_flags.machine(device, precision, tokens_per_microbatch))
    found = trained.predict(texts, pairs or None)
    if not trained.private:
        _show.say(f"this model is {NOT_PRIVATE}: trained without clipping and noise")
    for one, prediction in zip(texts, found, strict=True):
        if as_json:
            _show.print_json(
                {
                    "text": one,
                    "label": prediction.label,
                    "probability": prediction.probability,
                    "private": trained.private,
                }
            )
        elif prediction.probability is None:
            print(f"{prediction.label:.3f}\t{one}")
        else:
            print(f"{prediction.label}\t{prediction.probability:.3f}\t{one}")


def _lines(file: Path) -> tuple[list[str], list[str]]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        found = type(error).__name__
        raise UserError(f"--file must be a UTF-8 text file, got {str(file)!r} ({found}); pass another") from None
    if lines[-1] == "":
        lines.pop()
    if lines and all("\t" in line for line in lines):
        return [line.split("\t", 1)[0] for line in lines], [line.split("\t", 1)[1] for line in lines]
    return lines, []
