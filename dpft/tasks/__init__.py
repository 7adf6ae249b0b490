"""Tasks, found by name."""

from __future__ import annotations

import difflib
from dataclasses import replace

import numpy as np

from dpft import objectives
from dpft.data.examples import Rows
from dpft.errors import UserError
from dpft.objectives import Objective
from dpft.spec import Spec
from dpft.tasks import files, glue, named_entities
from dpft.tasks.task import Task, check_rows

SAMPLE = "sample"
__all__ = ["Task", "check", "judged", "load", "metrics", "names", "settled"]


def names() -> dict[str, str]:
    """Every task and a line about it."""
    return {
        SAMPLE: "built-in: short support messages, generated, metric accuracy",
        files.NAME: files.ABOUT,
        **glue.NAMES,
        **named_entities.NAMES,
    }


def check(spec: Spec) -> None:
    """Raise UserError for an unknown task, before anything is loaded."""
    if spec.task not in names():
        close = difflib.get_close_matches(spec.task, names(), n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else "see `dpft tasks`"
        raise UserError(f"the task must be one of {', '.join(names())}, got {spec.task!r}; {hint}")
    if spec.task == SAMPLE and spec.data is not None:
        raise UserError(f"the task sample brings its own data, got --data {spec.data!r}; drop --data or name a --task")
    if spec.task == SAMPLE and spec.unit != Spec.unit:
        raise UserError(f"the task sample has no column but its text, got --unit {spec.unit!r}; name a --task")
    if spec.task == files.NAME:
        files.check(spec)
        return
    for flag in ("text", "pair", "label", "validation", "kind", "labels"):
        if getattr(spec, flag) is not None and flag not in named_entities.FLAGS.get(spec.task, ()):
            raise UserError(
                f"only the task files takes --{flag}, got the task {spec.task}; pass --task files or drop it"
            )


def load(spec: Spec) -> Task:
    """The task of `spec`. Raises UserError on an unknown name or on data that does not fit it."""
    check(spec)
    return weighted(_load(spec), spec)


def _load(spec: Spec) -> Task:
    if spec.task == SAMPLE:
        return _sample()
    if spec.task in named_entities.NAMES:
        return named_entities.load(spec)
    return files.load(spec) if spec.task == files.NAME else glue.load(spec)


def weighted(task: Task, spec: Spec) -> Task:
    """`task` with the class weights that `spec` states. Raises UserError where they do not fit its labels."""
    if spec.class_weights is None:
        return task
    objective = task.objective.weighted(task.labels, spec.class_weights, spec.shares or {})
    return replace(task, objective=objective)


def settled(spec: Spec) -> Spec:
    """`spec` with the representation that its task needs. Raises UserError for one that it cannot use."""
    objective = objectives.plain(1) if spec.kind is None else objectives.of_column(spec.kind)
    if spec.task in named_entities.NAMES:
        objective = named_entities.OBJECTIVE
    return replace(spec, representation=objective.representation_for(spec.representation, spec.task))


def judged(spec: Spec, data: str | None, objective: Objective, labels: tuple[str, ...]) -> dict[str, Rows]:
    """The rows that a run of `spec` is judged by, as `Task.judged` has them; with `data`, those of other data."""
    parts = _judged(spec, data, objective, labels)
    check_rows(parts, "validation", objective, labels)
    return parts


def _judged(spec: Spec, data: str | None, objective: Objective, labels: tuple[str, ...]) -> dict[str, Rows]:
    if spec.task in named_entities.NAMES:
        return _main(named_entities.judged(spec, data, labels))
    if spec.task == files.NAME:
        return _main(files.judged(spec, data, objective, labels))
    other = spec if data is None else replace(spec, data=data)
    return glue.judged(other) if spec.task in glue.NAMES else load(other).judged


def _main(rows: Rows | None) -> dict[str, Rows]:
    return {} if rows is None else {"": rows}


def metrics(spec: Spec, objective: Objective) -> tuple[str, ...]:
    """The metrics of a task, the main one first."""
    return glue.metrics(spec.task) if spec.task in glue.NAMES else tuple(one.name for one in objective.metrics)


def _sample() -> Task:
    from dpft.tasks import sample

    texts, labels, judged, judged_labels = sample.rows()
    train = Rows(texts, None, np.array(labels, np.int64))
    return Task(SAMPLE, train, Rows(judged, None, np.array(judged_labels, np.int64)), sample.LABELS, "accuracy")
