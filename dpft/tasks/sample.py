"""The built-in task `sample`: is a short message to a help desk urgent?

A message says how one thing is: "hi, the main pipe is no longer leaking, no rush". It is urgent exactly when
the thing is in a bad state now. A denial turns the meaning of the state, a change leaves only the later state
standing, and greetings ("emergency", "no rush") mean nothing. All text is generated; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import ClassVar, TypeVar

import numpy as np

from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.objectives import Objective
from dpft.spec import EXAMPLE, Spec
from dpft.tasks._family import Family
from dpft.tasks.task import Task
from dpft.tasks.vocabulary import sample as words

LABELS: tuple[str, ...] = ("can wait", "urgent")
TRAIN_EXAMPLES = 20_000
VALIDATION_EXAMPLES = 2_000
SEED = 2023
LABEL_NOISE = 0.04  # share of flipped labels: the best possible accuracy is 96 %

# Denials are the minority: a linear probe is right on the others and wrong on denials.
DENIED_SHARE = 0.27
CHANGED_SHARE = 0.05
OPENING_SHARE = 0.25
CLOSING_SHARE = 0.25

Item = TypeVar("Item")


def rows() -> tuple[list[str], list[int], list[str], list[int]]:
    """Train texts and labels, validation texts and labels; no text occurs twice."""
    texts, labels = generate(TRAIN_EXAMPLES + VALIDATION_EXAMPLES, SEED)
    cut = TRAIN_EXAMPLES
    return texts[:cut], labels[:cut], texts[cut:], labels[cut:]


def generate(examples: int, seed: int, label_noise: float = LABEL_NOISE) -> tuple[list[str], list[int]]:
    """Distinct messages and their labels. The noise changes labels only, never the texts."""
    rng = Random(seed)
    labels: dict[str, int] = {}
    while len(labels) < examples:
        text, urgent = _message(rng)
        flipped = rng.random() < label_noise
        labels.setdefault(text, int(urgent != flipped))
    return list(labels), list(labels.values())


def _message(rng: Random) -> tuple[str, bool]:
    """One message, and whether it is urgent."""
    kind = _pick(rng, words.KINDS)
    pattern = _pick(rng, _patterns(rng))
    names_bad = rng.random() < 0.5
    named, other = (kind.bad, kind.good) if names_bad else (kind.good, kind.bad)
    text = pattern.text.format(
        s=f"{_pick(rng, words.OWNERS)} {_pick(rng, kind.things)}",
        x=_pick(rng, named),
        y=_pick(rng, other),
        t=_pick(rng, words.TIMES),
    )
    if rng.random() < OPENING_SHARE:
        text = f"{_pick(rng, words.OPENINGS)}, {text}"
    if rng.random() < CLOSING_SHARE:
        text = f"{text}, {_pick(rng, words.CLOSINGS)}"
    return text, names_bad != pattern.flips


def _patterns(rng: Random) -> tuple[words.Pattern, ...]:
    coin = rng.random()
    if coin < DENIED_SHARE:
        return words.DENIED
    return words.CHANGED if coin < DENIED_SHARE + CHANGED_SHARE else words.PLAIN


def _pick(rng: Random, items: Sequence[Item]) -> Item:
    """One item, uniformly. Python promises only random(), not choice(), to stay the same for a seed."""
    return items[int(rng.random() * len(items))]


class Sample(Family):
    """The one task whose data come with the package."""

    tasks: ClassVar = {"sample": "built-in: short support messages, generated, metric accuracy"}
    place = 0

    def check(self, spec: Spec) -> None:
        if spec.data is not None:
            raise UserError(
                f"the task sample brings its own data, got --data {spec.data!r}; drop --data or name a --task"
            )
        if spec.unit != EXAMPLE:
            raise UserError(f"the task sample has no unit column, got --unit {spec.unit!r}; name a --task")
        super().check(spec)

    def load(self, spec: Spec) -> Task:
        texts, labels, others, their_labels = rows()
        train = Examples(texts, None, np.array(labels, np.int64))
        return Task("sample", train, Examples(others, None, np.array(their_labels, np.int64)), LABELS, "accuracy")

    def validation(
        self, spec: Spec, data: str | None, objective: Objective, labels: tuple[str, ...]
    ) -> dict[str, Examples]:
        if data is not None:
            self.check(replace(spec, data=data))
        return self.load(spec).judged


FAMILY = Sample()
