"""The built-in task `text/sample`: short messages of customers to a shop, to be written from their labels.

A message is about one of four topics, its label, which goes before it as a control code. All text is generated;
nothing is copied, and no name, place or order number is anybody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import ClassVar, TypeVar

import numpy as np

from dpft import objectives
from dpft.data.documents import CodedPrompts, Documents
from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.objectives import Objective
from dpft.spec import EXAMPLE, Spec
from dpft.tasks._family import Family
from dpft.tasks.task import Task
from dpft.tasks.text_files import KIND
from dpft.tasks.vocabulary import text_sample as words

NAME = "text/sample"
LABELS = tuple(topic.label for topic in words.TOPICS)
TRAIN_EXAMPLES, VALIDATION_EXAMPLES = 4_000, 500
SEED = 2024
GREETING_SHARE, DETAIL_SHARE, WISH_SHARE, GOODBYE_SHARE = 0.4, 0.75, 0.6, 0.4

Item = TypeVar("Item")


def generate(examples: int, seed: int) -> tuple[list[str], list[int]]:
    """Distinct messages and the numbers of their labels."""
    rng = Random(seed)
    found: dict[str, int] = {}
    while len(found) < examples:
        topic = int(rng.random() * len(words.TOPICS))
        found.setdefault(_message(rng, words.TOPICS[topic]), topic)
    return list(found), list(found.values())


def _message(rng: Random, topic: words.Topic) -> str:
    parts = [_pick(rng, topic.openings)]
    for share, among in ((DETAIL_SHARE, topic.details), (WISH_SHARE, topic.wishes), (GOODBYE_SHARE, words.GOODBYES)):
        if rng.random() < share:
            parts.append(_pick(rng, among))
    if rng.random() < GREETING_SHARE:
        parts.insert(0, _pick(rng, words.GREETINGS))
    drawn = {slot: _pick(rng, among) for slot, among in words.SLOTS.items()}
    numbers = {"sum": f"{4 + int(rng.random() * 396)} euros", "order": 10_000 + int(rng.random() * 90_000)}
    return " ".join(parts).format(**drawn, **numbers)


def _pick(rng: Random, items: Sequence[Item]) -> Item:
    """One item, uniformly. Python promises only random(), not choice(), to stay the same for a seed."""
    return items[int(rng.random() * len(items))]


class TextSample(Family):
    """The one task of texts to write whose data come with the package."""

    tasks: ClassVar = {NAME: "built-in: customers' messages to write from their labels, generated; perplexity"}
    place = 5
    writes = True

    def check(self, spec: Spec) -> None:
        if spec.data is not None:
            raise UserError(f"the task {NAME} brings its own data, got --data {spec.data!r}; drop it or name a --task")
        if spec.unit != EXAMPLE:
            raise UserError(f"the task {NAME} has no unit column, got --unit {spec.unit!r}; name a --task")
        super().check(spec)

    def objective(self, spec: Spec) -> Objective:
        return objectives.load(KIND).configured(spec)

    def load(self, spec: Spec) -> Task:
        texts, labels = generate(TRAIN_EXAMPLES + VALIDATION_EXAMPLES, SEED)
        cut, objective = TRAIN_EXAMPLES, self.objective(spec)
        metric, *further = (one.name for one in objective.metrics)
        train, judged = (_rows(texts[part], labels[part], spec) for part in (slice(cut), slice(cut, None)))
        return Task(NAME, train, judged, LABELS, metric, objective, tuple(further))

    def validation(
        self, spec: Spec, data: str | None, objective: Objective, labels: tuple[str, ...]
    ) -> dict[str, Examples]:
        if data is not None:
            self.check(replace(spec, data=data))
        return self.load(spec).judged


def _rows(texts: list[str], labels: list[int], spec: Spec) -> Examples:
    numbers = np.array(labels, np.int64)
    return Examples(
        texts, CodedPrompts(LABELS, numbers), numbers, documents=Documents(windows=spec.max_windows),
    )  # fmt: skip


FAMILY = TextSample()
