"""dpft predict: label texts with a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from dpft.cli import _flags, _show

from dpft.errors import UserError


def predict(
    run: _flags.RunArgument,
    text: Annotated[list[str] | None, typer.Option(help="A text; may be given many times.")] = None,
    pair: Annotated[list[str] | None, typer.Option(help="The second text, for tasks of pairs; one per --text.")] = None,
    file: Annotated[Path | None, typer.Option(help="A UTF-8 file: one text a line, a pair separated by a tab.")] = None,
    device: _flags.Device = "auto",
    precision: _flags.Precision = "auto",
    tokens_per_microbatch: _flags.Tokens = None,
    as_json: _flags.Json = False,
) -> None:
    """Label texts: one line each, the label, its probability, the text. A model of words: a line for each word, with
    its tag, and an empty line after each text. A model that writes continues each text with its likeliest words."""
    if bool(text) == bool(file):
        raise UserError("predict needs texts, got both or neither of --text and --file; pass one of them")
    texts = _lines(file) if file else list(text or [])
    from dpft.inference.trained_model import load
    from dpft.runs.privacy_card import NOT_PRIVATE

    trained = load(run, machine=_flags.machine(device, precision, tokens_per_microbatch))
    if file and trained.takes_pairs:
        texts, pair = _halves(texts)
    if not trained.private:
        _show.say(f"this model is {NOT_PRIVATE}: trained without clipping and noise")
    for one, found in zip(texts, trained.predictions(texts, pair), strict=True):
        if as_json:
            _show.print_json({"text": one, **trained.objective.to_json(found), "private": trained.private})
        else:
            print(trained.objective.printed(found, one))


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        found = type(error).__name__
        raise UserError(f"--file must be a UTF-8 text file, got {str(file)!r} ({found}); pass another") from None
    return lines[:-1] if lines[-1] == "" else lines


def _halves(lines: list[str]) -> tuple[list[str], list[str]]:
    whole = [number for number, line in enumerate(lines, 1) if "\t" not in line]
    if whole:
        raise UserError(f"each line must be a pair separated by a tab, got line {whole[0]} without; fix the file")
    return [line.split("\t", 1)[0] for line in lines], [line.split("\t", 1)[1] for line in lines]
