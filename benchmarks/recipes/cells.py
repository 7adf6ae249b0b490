"""Turn recipes into cells of a comparison, on the paper's encoder or another, with data from the hub or local files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpft.benchmarks.recipes.read import Recipe

from dpft import methods, models, tasks
from dpft.compare.cells import Cell
from dpft.compare.events import Outcome
from dpft.errors import UserError
from dpft.spec import Spec
from dpft.training.preparation import settled_spec


@dataclass(frozen=True)
class Overrides:
    """What the user may change of a recipe: encoder, data folder, number of seeds. None: as in the paper."""

    model: str | None = None
    data: Path | None = None
    seeds: int | None = None

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise UserError(f"seeds must be a whole number above 0, got {self.seeds}; pass --seeds 3")


Seeds = tuple[Recipe, tuple[Cell, ...]]


def cells(every: Sequence[Recipe], asked: Overrides) -> list[Seeds]:
    """Each recipe with its cells, one per seed. Recipes may share a cell, which is then run once."""
    return [(recipe, tuple(_cell(recipe, asked, seed) for seed in _seeds(recipe, asked))) for recipe in every]


def distinct(every: Sequence[Seeds]) -> tuple[Cell, ...]:
    """All distinct cells, ordered by seed."""
    seen: dict[str, Cell] = {}
    for cell in sorted((cell for _, own in every for cell in own), key=lambda cell: cell.spec.seed):
        seen.setdefault(cell.digest, cell)
    return tuple(seen.values())


def missing_requirement(recipe: Recipe) -> str | None:
    """Why a recipe cannot be run by this version of dpft; None if it can."""
    known = tasks.names()
    if recipe.spec.task not in known:
        return f"needs the task {recipe.spec.task}, which this dpft has not"
    if recipe.spec.method not in methods.names():
        return f"needs the method {recipe.spec.method}, which this dpft has not"
    return None


def started_from(recipe: Recipe, cell: Cell, first: Path) -> Cell:
    """The second stage of a recipe, which starts from the finished run at `first`."""
    return dataclasses.replace(cell, arm=recipe.row, spec=dataclasses.replace(cell.spec, start=str(first)))


def _seeds(recipe: Recipe, asked: Overrides) -> range:
    return range(asked.seeds or recipe.seeds)


def _cell(recipe: Recipe, asked: Overrides, seed: int) -> Cell:
    spec = dataclasses.replace(recipe.spec, seed=seed, data=_data(asked.data, recipe.task))
    if asked.model is not None:
        spec = on_model(spec, asked.model)
    return Cell(recipe.row, settled_spec(spec))


def on_model(spec: Spec, model: str) -> Spec:
    """The same experiment on another encoder. A shared vector z that is too long for it is shortened."""
    method: Any = methods.load(spec.method, spec.options)
    options = dict(spec.options)
    if hasattr(method, "fitted"):
        options = {**options, "dim": method.fitted(models.configuration(model)).dim}
    return dataclasses.replace(spec, model=model, options=options)


def _data(folder: Path | None, task: str) -> str | None:
    """The folder of a task's files: DIR/sst2, DIR/glue/sst2, or DIR itself for a single task."""
    if folder is None:
        return None
    for place in (folder / task, folder / "glue" / task):
        if place.is_dir():
            return str(place)
    return str(folder)


@dataclass(frozen=True)
class PaperComparison:
    """Our figures for a recipe, in the paper's unit (per cent or seconds), one per seed. `why`: why one is missing."""

    recipe: Recipe
    ours: tuple[float, ...]
    why: str | None


def compare_with_paper(recipe: Recipe, own: Sequence[Cell], outcomes: Mapping[str, Outcome]) -> PaperComparison:
    """Collect the results of a recipe's cells, in the metric of the paper's column."""
    values, why = [], None
    for cell in own:
        outcome = outcomes.get(cell.digest)
        if outcome is None or outcome.result is None:
            why = "not run" if outcome is None else str(outcome.error)
            continue
        found = reading(outcome.result.to_json(), recipe.metric)
        if found is None:
            why = f"found {outcome.result.metric}, the paper prints {recipe.metric}"
        else:
            values.append(found if recipe.metric == "seconds" else 100 * found)
    return PaperComparison(recipe, tuple(values), why)


def reading(result: Mapping[str, Any], metric: str) -> float | None:
    """The value of `metric` in a result, main or further; None if it is not there."""
    if metric == "seconds":
        return float(result["seconds"])
    if result["metric"] == metric:
        return float(result["value"])
    more = [of[metric] for of in result.values() if isinstance(of, Mapping) and metric in of]
    return float(more[0]) if more else None
