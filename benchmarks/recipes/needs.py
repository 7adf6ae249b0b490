"""Requirements of a recipe: weights, data, and hours on given hardware, measured or extrapolated."""

from __future__ import annotations

from dataclasses import dataclass

from dpft.benchmarks.recipes.read import ROWS, Recipe, recipes

GPU = "Quadro RTX 8000"
# Methods that table 5 does not time, and the most similar method that it does.
_LIKE = {"jr_warp": "warp"}


@dataclass(frozen=True)
class Needs:
    """`hours`: for one seed on `hardware`; None if there is no measurement to extrapolate from."""

    weights: str
    data: str
    hours: float | None
    hardware: str
    how: str


def needs(recipe: Recipe) -> Needs:
    """The requirements of a recipe. Hours are scaled by rows and epochs from table 5 (one epoch of QNLI at batch 8).

    They are only a rough estimate: texts of other tasks differ in length, and private training has larger batches.
    """
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
    """Table 5: seconds per epoch of QNLI, by method and encoder size."""
    return {(r.spec.method, "large" if "large" in r.spec.model else "base"): r.printed for r in recipes("table5")}
