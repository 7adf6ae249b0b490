"""Tasks, found by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dpft.answers import Answer, Classes
from dpft.spec import Spec, UserError
from dpft.tasks import files, glue, ner
from dpft.tasks._task import Rows, Task, check_rows
from dpft.tasks.words import found_in

SAMPLE = "sample"
_MOST_NAMED = 8
__all__ = ["Rows", "Task", "check", "judged", "load", "made_up", "metrics", "names", "settled"]


def names() -> dict[str, str]:
    """Every task and a line about it."""
    return {
        SAMPLE: "built-in: short support messages, generated, metric accuracy",
        files.NAME: files.ABOUT,
        **glue.NAMES,
        **ner.NAMES,
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
        if getattr(spec, flag) is not None and flag not in ner.FLAGS.get(spec.task, ()):
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
    if spec.task in ner.NAMES:
        return ner.load(spec)
    return files.load(spec) if spec.task == files.NAME else glue.load(spec)


def weighted(task: Task, spec: Spec) -> Task:
    """`task` with the class weights that `spec` states. Raises UserError where they do not fit its labels."""
    if spec.class_weights is None:
        return task
    if type(task.answer) is not Classes:
        raise UserError(
            f"class-weights go with one label of several, got a task of {task.answer.kind}; drop --class-weights"
        )
    stated: Mapping[str, float] = spec.shares or {}
    if spec.class_weights != "balanced":
        stated = spec.class_weights
    if set(stated) != set(task.labels):
        flag = "shares" if spec.class_weights == "balanced" else "class-weights"
        unknown, missing = sorted(set(stated) - set(task.labels)), len(set(task.labels) - set(stated))
        named = f" ({', '.join(unknown[:_MOST_NAMED])})" if unknown else ""
        raise UserError(  # the task's own names are not told: they may have been read off training rows
            f"{flag} must name every class once, got {len(unknown)} unknown{named} and {missing} left out; "
            f"mend --{flag}"
        )
    weights = tuple(float(stated[name]) for name in task.labels)
    if spec.class_weights == "balanced":
        weights = tuple(1 / share for share in weights)
    return replace(task, answer=Classes(weights))


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


def judged(spec: Spec, data: str | None, answer: Answer, labels: tuple[str, ...]) -> dict[str, Rows]:
    """The rows that a run of `spec` is judged by, as `Task.judged` has them; with `data`, those of other data."""
    parts = _judged(spec, data, answer, labels)
    check_rows(parts, "validation", answer, labels)
    return parts


def _judged(spec: Spec, data: str | None, answer: Answer, labels: tuple[str, ...]) -> dict[str, Rows]:
    if spec.task == files.NAME or spec.task in ner.NAMES:
        rows = ner.judged(spec, data, labels) if answer.spoken else files.judged(spec, data, answer, labels)
        return {} if rows is None else {"": rows}
    other = spec if data is None else replace(spec, data=data)
    return glue.judged(other) if spec.task in glue.NAMES else load(other).judged


def metrics(spec: Spec, answer: Answer) -> tuple[str, ...]:
    """The metrics of a task, the main one first."""
    return glue.metrics(spec.task) if spec.task in glue.NAMES else answer.metrics


def _sample() -> Task:
    from dpft.tasks import sample

    texts, labels, judged, judged_labels = sample.rows()
    train = Rows(texts, None, np.array(labels, np.int64))
    return Task(SAMPLE, train, Rows(judged, None, np.array(judged_labels, np.int64)), sample.LABELS, "accuracy")
