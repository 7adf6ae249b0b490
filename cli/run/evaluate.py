"""dpft evaluate: the metrics of a finished run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from dpft.cli import _flags, _show

from dpft.errors import UserError

if TYPE_CHECKING:
    from dpft.inference.trained_model import Trained


def evaluate(
    run: _flags.RunArgument,
    data: Annotated[
        str | None, typer.Option(help="Evaluate on this file instead.", metavar="PATH", show_default=False)
    ] = None,
    synthetic: Annotated[
        Path | None,
        typer.Option(help="Judge these rows, which the run wrote, beside real ones.", metavar="FILE"),
    ] = None,
    generate: Annotated[
        int | None,
        typer.Option(help="Write after N prompts of the validation set: BLEU, chrF and ROUGE-L.", metavar="N"),
    ] = None,
    device: _flags.Device = "auto",
    precision: _flags.Precision = "auto",
    tokens_per_microbatch: _flags.Tokens = None,
    as_json: _flags.Json = False,
) -> None:
    """Evaluate a finished run on its validation set, or on labelled rows of the same columns."""
    from dpft.inference.trained_model import load

    if synthetic is not None and generate is not None:
        raise UserError("--synthetic judges a file and --generate writes texts, got both; pass one of them")
    trained = load(run, machine=_flags.machine(device, precision, tokens_per_microbatch))
    if trained.private and trained.saw(data):
        _show.say(
            "some of these rows have the text of a training row: the figures are computed on them without noise, and "
            "the run's promise does not cover them"
        )
    if synthetic is not None:
        _judge_synthetic(trained, synthetic, data, as_json)
    elif generate is not None:
        _judge_prompts(trained, generate, data, as_json)
    else:
        _show_metrics(trained, data, as_json)


def _show_metrics(trained: Trained, data: str | None, as_json: bool) -> None:
    further, classes = trained.judged(data)
    table = _show.by_type(further)
    metric = next(iter(further))
    value = further.pop(metric)
    if as_json:
        about = {"run": str(trained.run.path), "metric": metric, "value": value, "further": further, "classes": classes,
                 "private": trained.private}  # fmt: skip
        _show.print_json(about)
        return
    shown = "" if table else _show.beside(further)
    print(f"{metric} {value:.4f} on {_rows(trained, data)} (without noise){shown}{_mark(trained)}")
    for line in [*table, *_show.by_class(classes)]:
        print(line)


def _judge_synthetic(trained: Trained, file: Path, data: str | None, as_json: bool) -> None:
    from dpft.generation.judge import judge

    bar = _show.Bar()
    try:
        found = judge(trained, file, data, bar)
    finally:
        bar.ended()
    if as_json:
        _show.print_json({"run": str(trained.run.path), "private": trained.private, **found.to_json()})
        return
    print(f"these rows beside {_rows(trained, data)}, which are read without noise{_mark(trained)}")
    print(f"{'':<24}{'synthetic':>10}{'real':>10}")
    for name, synthetic, real in _figures(found.to_json()):
        print(f"{name:<24}{synthetic:>10}{real:>10}")
    if found.finished is not None:
        print(f"finished    {', '.join(f'{reason} {share:.4f}' for reason, share in found.finished.items())}")
    if found.useful is not None:
        print(
            f"useful      macro-F1 {found.useful.f1_macro:.4f}, accuracy {found.useful.accuracy:.4f}: a linear probe "
            "on the built-in encoder, trained on the synthetic rows, tested on the real ones"
        )
    if found.missing:
        print(f"            no synthetic row has the label {', '.join(found.missing)}")
    beside = " and what the same probe learns from real rows (its private training is in no ledger)"
    print(
        f"not shown   copies of training rows{'' if found.useful is None else beside}: the promise does not cover them"
    )
    print(f"            they lie in {shlex.quote(str(found.private_figures))}")


def _figures(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, figure of the synthetic rows, figure of the real ones) for each line."""
    sides = found["synthetic"], found["real"]

    def line(name: str, form: str, *keys: str) -> tuple[str, str, str]:
        values = []
        for side in sides:
            for key in keys:
                side = side[key]
            values.append(format(side, form))
        return name, values[0], values[1]

    named = {"mean": "words, mean", "p5": "words, 5th percentile", "p50": "words, median",
             "p95": "words, 95th percentile"}  # fmt: skip
    return [
        line("rows", "d", "rows"),
        *(line(name, ".1f", "words", key) for key, name in named.items()),
        *(line(f"distinct-{n}", ".4f", "distinct", n) for n in ("1", "2", "3")),
        line("duplicates", ".4f", "duplicates"),
        line("empty", ".4f", "empty"),
    ]


def _judge_prompts(trained: Trained, count: int, data: str | None, as_json: bool) -> None:
    from dpft.generation.judge import judge_prompts

    found = judge_prompts(trained, count, data)
    if as_json:
        about = {"prompts": found.prompts, "bleu": found.bleu, "chrf": found.chrf, "rouge_l": found.rouge_l}
        _show.print_json({"run": str(trained.run.path), **about, "private": trained.private})
        return
    print(
        f"BLEU {found.bleu:.2f}, chrF {found.chrf:.2f}, ROUGE-L {found.rouge_l:.2f} after {found.prompts} prompts of "
        f"{_rows(trained, data)} (greedy, without noise){_mark(trained)}"
    )


def _rows(trained: Trained, data: str | None) -> str:
    return f"the rows of {data}" if data else f"the validation rows of {trained.run.spec.task}"


def _mark(trained: Trained) -> str:
    from dpft.runs.privacy_card import NOT_PRIVATE

    return "" if trained.private else f"   {NOT_PRIVATE}"
