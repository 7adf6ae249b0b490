"""dpft reproduce: the paper's experiments, with our results beside the paper's."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Annotated, Any

import typer
from dpft.cli import _flags, _show
from dpft.cli.comparison import cells as _cells

from dpft.errors import UserError

if TYPE_CHECKING:
    from dpft.benchmarks.recipes.cells import PaperComparison, Seeds
    from dpft.benchmarks.recipes.read import Recipe

    from dpft.compare.events import Outcome
    from dpft.compare.planning import Placement
    from dpft.compare.running.run_cells import Executor

_UNIT = {"seconds": "s"}


def reproduce(
    table: Annotated[str | None, typer.Argument(help="table2 … table9.", show_default=False)] = None,
    only: Annotated[
        str | None, typer.Option(help="Methods, tasks or parts (a, b), joined by commas: slash,sst2.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List what every cell needs, and run nothing.")] = False,
    model: Annotated[str | None, typer.Option(help="Another encoder than the paper's: folder or hub id.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of local data: DIR/sst2/train.parquet …")] = None,
    seeds: Annotated[int | None, typer.Option(help="Repeats of each cell. [default: as in the paper]")] = None,
    to: Annotated[Path | None, typer.Option(help="Where the runs go. [default: comparisons/reproduce-…]")] = None,
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
    """Run the experiments of Gupta et al. 2023 and print our results beside the paper's.

    Finished cells are not run again.
    """
    if table is None and not listed:
        raise UserError("dpft reproduce needs a table, got none; pass table6, or --list")
    machine = _flags.machine(device, precision, tokens_per_microbatch)
    who = _flags.executor(executor, ray_address, cpus_per_cell)
    from dpft.benchmarks.recipes import read

    chosen = [one for name in ([table] if table else read.TABLES) for one in read.recipes(name)]
    chosen = read.only(chosen, only)
    if listed:
        _list(chosen, as_json)
        return 0
    from dpft.benchmarks.recipes.cells import Overrides, cells, missing_requirement

    from dpft.compare.planning import Placement
    from dpft.privacy.ledger import default_ledger_place

    asked = Overrides(model, data, seeds)
    for one in chosen:
        if missing_requirement(one) and not as_json:
            print(f"left out    {one.title}: {missing_requirement(one)}")
    every = cells([one for one in chosen if missing_requirement(one) is None], asked)
    if not every:
        raise UserError(f"a cell must be one that can be run here, got {len(chosen)} that cannot; see --list")
    place = Placement(ledger or default_ledger_place(), population, machine)
    folder = to or Path("comparisons") / "-".join(["reproduce", str(table), *([Path(model).name] if model else [])])
    if model and not as_json:
        print(
            f"NOTE        on {model}, which is not the paper's encoder: its figures stand beside for orientation only"
        )
    firsts = cells([one for one in read.recipes(str(table)) if one.task == "mnli"], asked)
    run = functools.partial(
        _run, place=place, named=ledger is not None, yes=yes, dry=dry_run, as_json=as_json, executor=who
    )
    found = run([one for one in every if one[0].first is None], folder)
    second = [one for one in every if one[0].first is not None]
    begun = _begun(second, firsts, folder)
    if dry_run:
        return 0
    found = [*found, *run(begun, folder / "second")]
    return _end([one for one in every if one not in second] + begun, found, folder, model, as_json)


def _run(
    every: Sequence[Seeds],
    folder: Path,
    *,
    place: Placement,
    named: bool,
    yes: bool,
    dry: bool,
    as_json: bool,
    executor: Executor | None,
) -> list[Outcome]:
    """Plan and run the cells. Returns None after a dry run."""
    from dpft.benchmarks.recipes.cells import distinct

    from dpft.compare.folder import ComparisonFolder
    from dpft.compare.planning import placement_of

    here = ComparisonFolder(folder)
    ready = distinct(every)
    if not ready:
        return []
    own = placement_of(here, place, named)
    found = _cells.plan_and_run(ready, here, own, yes=yes, dry=dry, as_json=as_json, grows=True, executor=executor)
    return found or []


def _begun(second: Sequence[Seeds], firsts: Sequence[Seeds], folder: Path) -> list[Seeds]:
    """Second stages with the finished run that they start from; those without one are reported and left out."""
    from dpft.benchmarks.recipes.cells import started_from

    from dpft.compare.folder import ComparisonFolder

    runs = {
        digest: path for digest, path in ComparisonFolder(folder).found().items() if (path / "result.json").is_file()
    }
    found = []
    for recipe, own in second:
        before = [cell for one, cells in firsts if one.row == recipe.first for cell in cells]
        first = {cell.spec.seed: runs.get(cell.digest) for cell in before}
        ready = [started_from(recipe, cell, start) for cell in own if (start := first.get(cell.spec.seed))]
        if ready:
            found.append((recipe, tuple(ready)))
        else:
            _show.say(f"left out: {recipe.title} begins with {recipe.first} on MNLI, which is not there yet")
    return found


def _end(every: Sequence[Seeds], outcomes: Sequence[Outcome], folder: Path, model: str | None, as_json: bool) -> int:
    from dpft.benchmarks.recipes.cells import compare_with_paper

    by_digest = {one.cell.digest: one for one in outcomes}
    rows = [compare_with_paper(recipe, own, by_digest) for recipe, own in every]
    if as_json:
        extra = {"paper": [_json(row) for row in rows], "papers_encoder": model is None}
        return _cells.print_outcomes(outcomes, folder, extra, as_json)
    wide = max((len(row.recipe.title) for row in rows), default=0)
    for row in rows:
        print(f"{row.recipe.title:<{wide}}  {row.recipe.metric:<9} ours {_ours(row):<18} paper {_paper(row.recipe)}")
    failed = [one for one in outcomes if one.result is None]
    for one in failed:
        print(f"FAILED      {one.cell.title}: {one.error}")
    whose = "the paper's encoder" if model is None else f"{model}, NOT the paper's encoder"
    print(f"lies in     {folder}   (on {whose}; mean ± standard deviation over n seeds)")
    return 1 if failed else 0


def _ours(row: PaperComparison) -> str:
    if not row.ours:
        return f"- ({row.why})"
    unit = _UNIT.get(row.recipe.metric, "")
    sd = f" ± {stdev(row.ours):.1f}" if len(row.ours) > 1 else ""
    return f"{mean(row.ours):.1f}{sd}{unit} (n {len(row.ours)})"


def _paper(recipe: Recipe) -> str:
    sd = "" if recipe.spread is None else f" ± {recipe.spread:g} (n {recipe.seeds})"
    whose = f", by {recipe.quoted}" if recipe.quoted else ""
    return f"{recipe.printed:g}{sd}{_UNIT.get(recipe.metric, '')}{whose}"


def _json(row: PaperComparison) -> dict[str, Any]:
    one = row.recipe
    return {
        "table": one.table, "part": one.part, "row": one.row, "task": one.task, "metric": one.metric,
        "ours": list(row.ours), "why": row.why, "paper": one.printed, "spread": one.spread, "seeds": one.seeds,
        "quoted": one.quoted, "hyperparameters": one.origin,
    }  # fmt: skip


def _list(chosen: Sequence[Recipe], as_json: bool) -> None:
    from dpft.benchmarks.recipes.cells import missing_requirement
    from dpft.benchmarks.recipes.needs import needs

    if as_json:
        _show.print_json(
            [{**_about(one), "needs": vars(needs(one)), "lacks": missing_requirement(one)} for one in chosen]
        )
        return
    wide = max(len(one.title) for one in chosen)
    for one in chosen:
        need = needs(one)
        time = "hours unknown" if need.hours is None else f"{_cells.duration(3600 * need.hours)} on a {need.hardware}"
        lack = f"; {missing_requirement(one)}" if missing_requirement(one) else ""
        print(f"{one.title:<{wide}}  {need.weights}, {need.data}, {time} a seed, {need.how}; "
              f"paper {_paper(one)}; hyper-parameters: {one.origin}{lack}")  # fmt: skip


def _about(one: Recipe) -> dict[str, Any]:
    return {
        "title": one.title, "figures": one.figures, "paper": one.printed, "other": dict(one.other),
        "metric": one.metric, "hyperparameters": one.origin, "spec": one.spec.to_json(),
    }  # fmt: skip
