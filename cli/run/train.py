"""dpft train: fine-tune a model within a privacy budget."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from dpft.cli import _flags, _show

from dpft.errors import UserError
from dpft.spec import BUILTIN_LM, MAX_PER_UNIT, Budget, Spec, own_data_task


def train(
    epsilon: Annotated[float | None, typer.Option(help="The most ε the run may spend.")] = None,
    delta: Annotated[float | None, typer.Option(help="The δ that goes with it, below 1/examples.")] = None,
    non_private: Annotated[bool, typer.Option("--non-private", help="No clipping, no noise: NOT PRIVATE.")] = False,
    method: Annotated[str | None, typer.Option(help=f"See dpft methods. [default: {Spec.method}]")] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the method.")] = None,
    task: Annotated[str | None, typer.Option(help=f"See dpft tasks. [default: {Spec.task}]")] = None,
    data: _flags.Data = None,
    text: _flags.Text = None,
    pair: _flags.Pair = None,
    prompt: _flags.Prompt = None,
    messages: _flags.Messages = None,
    label: _flags.Label = None,
    validation: _flags.Validation = None,
    kind: _flags.Kind = None,
    labels: _flags.Labels = None,
    class_weights: _flags.ClassWeights = None,
    shares: _flags.Shares = None,
    model: Annotated[
        str | None, typer.Option(help=f"Local folder or hub id of an encoder. [default: {Spec.model}]")
    ] = None,
    representation: Annotated[
        str | None,
        typer.Option(
            help=f"What the head reads: mask, cls, mean; of words every token. [default: {Spec.representation}]"
        ),
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="20m", help="The most that training may take: 90s, 20m, 2h. [default: any]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Expected examples per step. [default: the recipe's, see dpft budget]")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Expected passes over the data. [default: the recipe's]")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate of all tensors. [default: the recipe's, for each]")
    ] = None,
    head_learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate of the head. [default: --learning-rate, else the recipe's]")
    ] = None,
    schedule: Annotated[str | None, typer.Option(help=f"constant, linear, cosine. [default: {Spec.schedule}]")] = None,
    clip: Annotated[
        float | None, typer.Option(help="Clipping norm of one example's gradient. [default: the recipe's]")
    ] = None,
    clipping: Annotated[
        str | None,
        typer.Option(
            help=f"cut: scale down longer gradients only; normalise: all to about --clip. [default: {Spec.clipping}]"
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(help="adam, adam_scaled (noise by the size of earlier gradients), sgd. [default: the recipe's]"),
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(help=f"Share of the steps in which the rate rises. [default: {Spec.warmup:g}]")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help=f"Tokens per example. [default: {Spec.max_length}]")] = None,
    max_windows: _flags.MaxWindows = None,
    token_loss: _flags.TokenLoss = None,
    unit: Annotated[
        str | None, typer.Option(help="Column whose values are the people to protect. [default: each example]")
    ] = None,
    max_per_unit: Annotated[
        int | None, typer.Option(help=f"Most examples used of one unit. [default: {MAX_PER_UNIT}]")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help=f"Public seed of initialisation and projections. [default: {Spec.seed}]")
    ] = None,
    canaries: Annotated[
        int | None,
        typer.Option(help="Canaries to add for dpft audit: the model is not for use. [default: 0]"),
    ] = None,
    spec: Annotated[Path | None, typer.Option(help="A run's spec.json to repeat; other flags override it.")] = None,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="Start from the weights of this finished run.")
    ] = None,
    start_public: Annotated[
        Path | None,
        typer.Option(
            "--from-public", metavar="RUN", help="The same, stating that what RUN was trained on is other people's."
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Parent folder of the run's folder.")] = Path("runs"),
    ledger: _flags.Ledger = None,
    population: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Whose data these are, where their texts alone would not tell. See dpft ledger."
        ),
    ] = None,
    device: _flags.Device = "auto",
    precision: _flags.Precision = "auto",
    tokens_per_microbatch: _flags.Tokens = None,
    as_json: _flags.Json = False,
) -> None:
    """Fine-tune a model within a privacy budget.

    With no other flag than the budget: the built-in encoder on the built-in task.
    """
    named = {
        "task": task, "data": data, "model": model, "method": method, "representation": representation,
        "batch_size": batch_size, "epochs": epochs, "learning_rate": learning_rate,
        "head_learning_rate": head_learning_rate, "schedule": schedule,
        "clip": clip, "optimizer": optimizer, "max_length": max_length, "unit": unit, "max_per_unit": max_per_unit,
        "seed": seed, "canaries": canaries, "text": text, "pair": pair, "prompt": prompt, "messages": messages,
        "label": label, "validation": validation, "kind": kind, "labels": _flags.names(labels),
        "class_weights": _flags.weights(class_weights), "shares": _flags.numbers(shares, "--shares"),
        "clipping": clipping, "warmup": warmup, "max_windows": max_windows, "token_loss": token_loss,
        "options": _flags.options(option) if option else None,
    }  # fmt: skip
    asked = {key: value for key, value in named.items() if value is not None}
    if start is not None and start_public is not None:
        raise UserError("a run begins with one other run, got --from and --from-public; drop one")
    begun = start if start_public is None else start_public
    if begun is not None:
        asked = {**_model_of(begun), **asked, "start": str(begun), "start_public": start_public is not None}
    wanted = _spec(spec, asked, epsilon, delta, non_private)
    machine = _flags.machine(device, precision, tokens_per_microbatch)
    from dpft.training.train import train as fine_tune

    bar = _show.Bar(_builtins(wanted))
    work = functools.partial(
        fine_tune, wanted, runs=runs, ledger=ledger, population=population, machine=machine, progress=bar,
        limit=_flags.seconds(time),
    )  # fmt: skip
    _show.follow(bar, work, as_json)


def _spec(
    file: Path | None, asked: dict[str, Any], epsilon: float | None, delta: float | None, non_private: bool
) -> Spec:
    """The spec of a file, or the defaults, with the given flags applied."""
    base = _read(file) if file else None
    given = epsilon is not None or delta is not None
    if non_private and given:
        raise UserError("a run is private or not, got a budget and --non-private; drop one")
    kept = base.budget if base else None
    if given:
        kept = Budget(
            _needed(epsilon if epsilon is not None or kept is None else kept.epsilon, "epsilon"),
            _needed(delta if delta is not None or kept is None else kept.delta, "delta"),
        )
    if base is None and not given and not non_private:
        raise UserError("a private run needs a budget, got none; pass --epsilon 6.7 --delta 1e-6, or --non-private")
    if base is None and "data" in asked:
        asked = {"task": own_data_task(asked), **asked}
    if {"method", "model", "task", "options"} & asked.keys():  # rates were chosen for what the spec had
        asked = {"learning_rate": None, **asked}
    if "learning_rate" in asked:
        asked = {"head_learning_rate": None, "tensor_scales": None, **asked}
    return (base or Spec()).stating(**asked, budget=None if non_private else kept)


def _model_of(run: Path) -> dict[str, Any]:
    """The fields that a run started from `run` inherits unless a flag overrides them."""
    spec = _read(run / "spec.json", "--from must name a run", "name one below runs/")
    return {n: getattr(spec, n) for n in ("model", "method", "options", "representation", "seed")}


def _needed(value: float | None, name: str) -> float:
    if value is None:
        raise UserError(f"a budget is an epsilon and a delta, got no {name}; pass --{name}")
    return value


def _read(file: Path, rule: str = "--spec must name a spec.json", remedy: str = "pass RUN/spec.json") -> Spec:
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{rule}, got {str(file)!r} ({type(error).__name__}); {remedy}") from None
    if not isinstance(values, dict):
        raise UserError(f"{rule} of one JSON object, got {str(file)!r} without; {remedy}")
    return Spec.from_json(values)


def _builtins(spec: Spec) -> list[str]:
    """Notes on built-in parts that the run uses, and how to use one's own."""
    writes = spec.task.startswith("text/")
    built_in = spec.model == BUILTIN_LM or (writes and spec.model == Spec.model)
    columns = "--text COLUMN" if writes else "--text COLUMN --label COLUMN"
    known = (
        (
            "the built-in encoder all-MiniLM-L6-v2 (your own: --model FOLDER_OR_HUB_ID)",
            spec.model == Spec.model and not writes,
        ),
        ("the built-in language model SmolLM2-135M-Instruct (your own: --model FOLDER_OR_HUB_ID)", built_in),
        (
            f"the built-in task {spec.task} (your own: --data FILE {columns}, see dpft tasks)",
            spec.task in (Spec.task, "text/sample"),
        ),
    )
    return [f"using {text}" for text, is_used in known if is_used]
