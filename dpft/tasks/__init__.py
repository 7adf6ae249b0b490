"""Tasks by name, discovered from this folder: a file with a FAMILY reads a family of tasks."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import replace

from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.objectives import Objective
from dpft.spec import BUILTIN_LM, Spec
from dpft.tasks._family import Family
from dpft.tasks.task import Task, check_rows

__all__ = ["Task", "check", "judged", "load", "metrics", "names", "settled"]


def families() -> Iterator[Family]:
    """All families, in the order in which their tasks are listed."""
    files = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found: list[Family] = [file.FAMILY for file in files if hasattr(file, "FAMILY")]
    yield from sorted(found, key=lambda family: family.place)


def names() -> dict[str, str]:
    """Every task and a line about it."""
    return {name: about for family in families() for name, about in family.tasks.items()}


def _family(spec: Spec) -> Family:
    for family in families():
        if spec.task in family.tasks:
            return family
    close = difflib.get_close_matches(spec.task, names(), n=1, cutoff=0.4)
    hint = f"did you mean {close[0]}?" if close else "see `dpft tasks`"
    raise UserError(f"the task must be one of {', '.join(names())}, got {spec.task!r}; {hint}")


def check(spec: Spec) -> None:
    """Raise UserError for an unknown task, or a spec that does not fit it, before anything is read."""
    _family(spec).check(spec)


def load(spec: Spec) -> Task:
    """The task of `spec`. Raises UserError on an unknown name or on data that does not fit it."""
    check(spec)
    return weighted(_family(spec).load(spec), spec)


def weighted(task: Task, spec: Spec) -> Task:
    """`task` with the class weights that `spec` states. Raises UserError where they do not fit its labels."""
    if spec.class_weights is None:
        return task
    objective = task.objective.weighted(task.labels, spec.class_weights, spec.shares or {})
    return replace(task, objective=objective)


def settled(spec: Spec) -> Spec:
    """`spec` with the representation, and the built-in model, that its task needs.

    Raises UserError for a representation that it cannot use.
    """
    objective = _family(spec).objective(spec)
    spec = replace(spec, representation=objective.representation_for(spec.representation, spec.task))
    writes = objective.representations == ("none",) and spec.model == Spec.model
    return replace(spec, model=BUILTIN_LM) if writes else spec


def judged(spec: Spec, data: str | None, objective: Objective, labels: tuple[str, ...]) -> dict[str, Examples]:
    """The validation sets of a run of `spec`, as `Task.judged` has them; with `data`, those of other data."""
    parts = _family(spec).validation(spec, data, objective, labels)
    check_rows(parts, "validation", objective, labels)
    return parts


def metrics(spec: Spec, objective: Objective) -> tuple[str, ...]:
    """The metrics of a task, the main one first."""
    return _family(spec).metrics(spec.task, objective)
