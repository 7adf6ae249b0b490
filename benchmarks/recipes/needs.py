"""What a recipe needs: weights, data, and hours on which hardware, measured or scaled from what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from dpft.benchmarks.recipes.read import ROWS, Recipe, recipes

GPU = "Quadro RTX 8000"
# Methods that table 5 does not time, by the nearest one that it does: prompts by prompts.
_LIKE = {"jr_warp": "warp"}


@dataclass(frozen=True)
class Needs:
    """`hours` for one seed on `hardware`, None where nothing was measured that it could be scaled from."""

    weights: str
    data: str
    hours: float | None
    hardware: str
    how: str


def needs(recipe: Recipe) -> Needs:
    """Hours are the paper's table 5 (one epoch of QNLI at batch 8), by rows and epochs: texts of other tasks are
    shorter or longer, and private training has large batches, so that they are no more than a first idea."""
    spec = recipe.spec
    size = "large" if "large" in spec.model else "base"
    seconds = _seconds().get((_LIKE.get(spec.method, spec.method), size))
    hours = None if seconds is None else seconds * (spec.epochs or 0.0) * ROWS[recipe.task] / ROWS["qnli"] / 3600
    if recipe.table == "table5":
        how = "measured (table 5)"
    else:
        how = "not measured" if hours is None else "scaled from table 5"
    data = "CoNLL-2003 (Reuters licence)" if recipe.task == "conll2003" else f"{spec.task} (hub, or --data)"
    return Needs(spec.model, data, hours, GPU, how)


def _seconds() -> dict[tuple[str, str], float]:
    """Table 5: seconds of an epoch of QNLI, by method and size of the encoder."""
    return {(r.spec.method, "large" if "large" in r.spec.model else "base"): r.printed for r in recipes("table5")}
