"""Tasks, found by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dpft.answers import Answer
from dpft.spec import Spec, UserError
from dpft.tasks import glue, ner
from dpft.tasks._task import Rows, Task
from dpft.tasks.words import found_in

SAMPLE = "sample"
__all__ = ["Rows", "Task", "check", "load", "made_up", "names", "settled"]


def names() -> dict[str, str]:
    """Every task and a line about it."""
    return {SAMPLE: "built-in: short support messages, generated, metric accuracy", **glue.NAMES, **ner.NAMES}


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
    return ner.load(spec) if spec.task in ner.NAMES else glue.load(spec)


def settled(spec: Spec) -> Spec:
    """`spec` with the representation that its task needs: where words are labelled, the head reads every token."""
    words = spec.task in ner.NAMES
    if words and spec.representation not in (Spec.representation, "token"):
        raise UserError(
            f"the head reads every token where words are labelled, got representation {spec.representation!r}; "
            "drop --representation"
        )
    if not words and spec.representation == "token":
        raise UserError(
            f"representation token goes with tasks that label words, got {spec.task}; pass mask, cls or mean"
        )
    return replace(spec, representation="token") if words else spec


def made_up(texts: Sequence[str], pairs: Sequence[str] | None, answer: Answer, labels: int) -> Rows:
    """Public texts as rows of a task with such answers, with labels that anything can be computed with."""
    words = found_in(texts) if answer.spoken else None
    count = len(texts) if words is None else len(words.spans)
    return Rows(texts, pairs, answer.blank(count, labels), words=words)


def _sample() -> Task:
    from dpft.tasks import sample

    texts, labels, judged, judged_labels = sample.rows()
    train = Rows(texts, None, np.array(labels, np.int64))
    return Task(SAMPLE, train, Rows(judged, None, np.array(judged_labels, np.int64)), sample.LABELS, "accuracy")
