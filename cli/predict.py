"""dpft predict: label texts with a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from dpft.cli import _flags, _show

from dpft.spec import UserError

if TYPE_CHECKING:
    from dpft.trained import Trained


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
    """Label texts: one line each, the label, its probability, the text. A model of words: a line for each word, with
    its tag, and an empty line after each text."""
    if bool(text) == bool(file):
        raise UserError("predict needs texts, got both or neither of --text and --file; pass one of them")
    texts = _lines(file) if file else list(text or [])
    from dpft.card import NOT_PRIVATE
    from dpft.trained import load

    trained = load(run, machine=_flags.machine(device, precision, tokens_per_microbatch))
    if file and trained.paired:
        texts, pair = _halves(texts)
    if not trained.private:
        _show.say(f"this model is {NOT_PRIVATE}: trained without clipping and noise")
    if trained.spoken:
        _tag(trained, texts, pair, as_json)
        return
    found = trained.predict(texts, pair)
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
        else:
            print(f"{_shown(prediction.label, prediction.probability)}\t{one}")


def _tag(trained: Trained, texts: Sequence[str], pair: Sequence[str] | None, as_json: bool) -> None:
    """Each text's words with their tags; as JSON, its entities too, with the characters where they stand."""
    if pair:
        raise UserError("this run tags the words of single texts, got pairs; drop --pair")
    for text, found in zip(texts, trained.tag(texts), strict=True):
        if as_json:
            _show.print_json({"text": text, **asdict(found), "private": trained.private})
            continue
        for word in found.words:
            print(f"{word.text}\t{word.label}\t{word.probability:.3f}")
        print()


def _shown(label: str | float | tuple[str, ...], probability: float | tuple[float, ...] | None) -> str:
    """A score; or a label, or the labels that apply, and how probable each is, with a tab between."""
    if isinstance(label, float):
        return f"{label:.3f}"
    if isinstance(label, str):
        return f"{label}\t{probability:.3f}"
    chances = probability if isinstance(probability, tuple) else ()
    return f"{'|'.join(label) or '-'}\t{'|'.join(f'{chance:.3f}' for chance in chances) or '-'}"


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
        raise UserError(f"each line must be a pair separated by a tab, got line {whole[0]} without; mend the file")
    return [line.split("\t", 1)[0] for line in lines], [line.split("\t", 1)[1] for line in lines]
