"""Tasks, found by name."""

from __future__ import annotations

import difflib

import numpy as np

from dpft.spec import Spec, UserError
from dpft.tasks import glue
from dpft.tasks._task import Rows, Task

SAMPLE = "sample"
__all__ = ["Rows", "Task", "check", "load", "names"]


def names() -> dict[str, str]:
    """Every task and a line about it."""
    return {SAMPLE: "built-in: short support messages, generated, metric accuracy", **glue.NAMES}


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


def load(spec: Spec) -> Task:
    """The task of `spec`. Raises UserError on an unknown name or on data that does not fit it."""
    check(spec)
    if spec.task == SAMPLE:
        return _sample()
    return glue.load(spec)


def _sample() -> Task:
    from dpft.tasks import sample

    texts, labels, judged, judged_labels = sample.rows()
    train = Rows(texts, None, np.array(labels, np.int64))
    return Task(SAMPLE, train, Rows(judged, None, np.array(judged_labels, np.int64)), sample.LABELS, "accuracy")
