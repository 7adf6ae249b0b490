"""dpft compare: several methods at several budgets over several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from dpft.cli import _flags
from dpft.cli.comparison import cells as _cells

from dpft.errors import UserError
from dpft.spec import Spec

_PUBLIC = "public:"


def compare(
    methods: Annotated[str | None, typer.Option(help="Names, joined by commas: slash,lora,linear.")] = None,
    epsilons: Annotated[
        str | None, typer.Option(help="Budgets, joined by commas: 1,3,6.7,inf (inf: no privacy).")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Repeats of each, with seeds 0, 1, … [default: 1]")] = None,
    delta: Annotated[float | None, typer.Option(help="The δ of every private cell, below 1/examples.")] = None,
    grid: Annotated[Path | None, typer.Option(help="A TOML file with all of this, and options of each method.")] = None,
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
    model: Annotated[str | None, typer.Option(help=f"Folder or hub id of an encoder. [default: {Spec.model}]")] = None,
    representation: Annotated[
        str | None, typer.Option(help=f"mask, cls, mean. [default: {Spec.representation}]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Expected examples a step. [default: the recipe's, see dpft budget]")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Expected passes. [default: the recipe's]")] = None,
    max_length: Annotated[int | None, typer.Option(help=f"Tokens per example. [default: {Spec.max_length}]")] = None,
    max_windows: _flags.MaxWindows = None,
    token_loss: _flags.TokenLoss = None,
    search: Annotated[str | None, typer.Option(help="random: draw learning rates, keep the best of --trials.")] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials of each search (expected number where it is charged).")
    ] = None,
    search_on: Annotated[
        str | None,
        typer.Option(
            metavar="public:TASK",
            help="Search on a public task, which costs no privacy. "
            "[default: on the cells' own rows, charged as a whole]",
        ),
    ] = None,
    search_data: Annotated[str | None, typer.Option(help="Where the public task's files lie.")] = None,
    to: Annotated[Path | None, typer.Option(help="The comparison's folder. [default: comparisons/…]")] = None,
    yes: _flags.Yes = False,
    dry_run: _flags.DryRun = False,
    ledger: _flags.Ledger = None,
    population: _flags.Population = None,
    executor: _flags.Executor = "local",
    ray_address: _flags.RayAddress = None,
    cpus_per_cell: _flags.CpusPerCell = None,
    device: _flags.Device = "auto",
    precision: _flags.Precision = "auto",
    tokens_per_microbatch: _flags.Tokens = None,
    as_json: _flags.Json = False,
) -> int:
    """Compare methods over budgets and seeds. All cells are planned and charged together.

    The same command, or --to alone, resumes an interrupted comparison.
    """
    flags = {
        "methods": _listed(methods), "epsilons": _listed(epsilons), "seeds": seeds, "delta": delta, "task": task,
        "data": data, "model": model, "representation": representation, "batch_size": batch_size, "epochs": epochs,
        "max_length": max_length, "max_windows": max_windows, "token_loss": token_loss, "text": text, "pair": pair,
        "prompt": prompt, "messages": messages, "label": label, "validation": validation, "kind": kind,
        "labels": _flags.names(labels),
    }  # fmt: skip
    asked = {key: value for key, value in flags.items() if value is not None}
    machine = _flags.machine(device, precision, tokens_per_microbatch)
    who = _flags.executor(executor, ray_address, cpus_per_cell)
    hunt = _search(search, trials, search_on, search_data)
    from dpft.compare.folder import ComparisonFolder
    from dpft.compare.planning import Placement, placement_of
    from dpft.privacy.ledger import default_ledger_place

    if not asked and grid is None and to is not None:
        folder = ComparisonFolder(to)
        cells = folder.cells()
    else:
        cells = _cells_of(grid, asked, hunt)
        folder = ComparisonFolder(to or Path("comparisons") / _name(cells))
    place = Placement(ledger or default_ledger_place(), population, machine)
    place = placement_of(folder, place, ledger is not None)
    outcomes = _cells.plan_and_run(cells, folder, place, yes=yes, dry=dry_run, as_json=as_json, executor=who)
    return 0 if outcomes is None else _cells.print_outcomes(outcomes, folder.path, {}, as_json)


def _cells_of(grid: Path | None, asked: dict[str, Any], hunt: dict[str, Any]) -> Any:
    import dataclasses

    from dpft.compare import grid as grids

    values = grids.read(grid) if grid else {}
    chosen = asked.get("methods")
    if chosen is not None and isinstance(values.get("methods"), dict):
        missing = sorted(set(chosen) - set(values["methods"]))
        if missing:
            raise UserError(f"--methods picks among the grid's, got {', '.join(missing)}, which it has not; fix one")
        asked = {**asked, "methods": {name: values["methods"][name] for name in chosen}}
    return dataclasses.replace(grids.grid_from({**values, **asked}), **hunt).cells()


def _search(search: str | None, trials: int | None, on: str | None, data: str | None) -> dict[str, Any]:
    if search is None:
        if trials is not None or on is not None or data is not None:
            raise UserError("--trials, --search-on and --search-data go with a search, got none; pass --search random")
        return {}
    if search != "random":
        raise UserError(f"--search must be random, got {search!r}; pass --search random --trials 10")
    if trials is None:
        raise UserError("a search needs a number of trials, got none; pass --trials 10")
    if on is not None and not (on.startswith(_PUBLIC) and on.removeprefix(_PUBLIC)):
        raise UserError(f"--search-on must be public:TASK, got {on!r}; leave it out for a search that is charged")
    if trials < 1:
        raise UserError(f"trials must be a whole number above 0, got {trials}; pass --trials 10")
    return {"trials": trials, "search_on": None if on is None else on.removeprefix(_PUBLIC), "search_data": data}


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _name(cells: Any) -> str:
    """A folder name that is the same for the same cells."""
    import hashlib

    together = hashlib.sha256("".join(sorted(cell.digest for cell in cells)).encode()).hexdigest()
    return f"{cells[0].spec.task.rpartition('/')[2]}-{together[:8]}"
