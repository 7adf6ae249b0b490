"""Objectives, discovered in this folder: each file with an OBJECTIVE defines one kind of task."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from dpft.data.label_column import LabelColumn
from dpft.errors import UserError
from dpft.objectives._canaries import CanaryTexts, Ingredients
from dpft.objectives._objective import ExportTarget, Metric, Objective, Prediction, Wording

__all__ = [
    "CanaryTexts", "ExportTarget", "Ingredients", "Metric", "Objective", "Prediction", "Wording", "every",
    "found_in", "load", "names", "of_column", "of_columns", "plain", "rules",
]  # fmt: skip


def every() -> Iterator[type[Objective]]:
    """The classes of all objectives, in the order of their kinds."""
    files = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    found: list[type[Objective]] = [importlib.import_module(f"{__name__}.{name}").OBJECTIVE for name in files]
    yield from sorted(found, key=lambda one: one.kind)


def names() -> list[str]:
    """All kinds, in alphabetical order."""
    return [one.kind for one in every()]


def load(kind: str) -> Objective:
    """The objective of a kind's name. Raises UserError for an unknown one."""
    for one in every():
        if one.kind == kind:
            return one()
    raise UserError(f"a task's kind must be one of {', '.join(names())}, got {kind!r}; use the dpft that wrote it")


def plain(labels: int) -> Objective:
    """The default objective: one label of several, or a score where there are no labels."""
    return load("classification" if labels else "regression")


def of_column(kind: str) -> Objective:
    """The objective that --kind names, with labels in one column. Raises UserError for another."""
    kinds = [one.kind for one in every() if one.from_column]
    if kind not in kinds:
        raise UserError(
            f"kind must be one of {', '.join(kinds)}, got {kind!r}; pass --kind, or --task ner/files to label words"
        )
    return load(kind)


def of_columns() -> Objective:
    """The objective whose labels may be one column of 0 and 1 each."""
    return next(one() for one in every() if one.from_columns)


def found_in(column: LabelColumn) -> Objective:
    """The objective of a column without a stated kind, by `rules`, from its distinct labels alone."""
    return next((one() for one in every() if one().recognises(column)), plain(1))


def rules() -> str:
    """The rules of `found_in`, as text."""
    listed = [f"{one.rule} are {one.kind}" for one in every() if one.rule]
    return "; ".join([*listed, f"all else is {plain(1).kind}"])
