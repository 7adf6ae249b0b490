"""The built-in task `sample`: does a short message to a help desk need somebody now?"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from dpft.tasks import _sample_words as words

LABELS: tuple[str, ...] = ("can wait", "urgent")
TRAIN_EXAMPLES = 20_000
VALIDATION_EXAMPLES = 2_000
SEED = 2023
LABEL_NOISE = 0.04

T = TypeVar("T")
SHARES = ((words.PLAIN, 0.72), (words.DENIED, 0.18), (words.CHANGED, 0.10))


def _pick(rng: Random, items: Sequence[T]) -> T:
    """One item, uniformly. Random.random() alone is promised to be the same on every Python version."""
    return items[int(rng.random() * len(items))]


def _patterns(rng):
    u = rng.random()
    for patterns, share in SHARES:
        u -= share
        if u < 0:
            return patterns
    return SHARES[-1][0]


def _message(rng: Random) -> tuple[str, int]:
    kind = _pick(rng, words.KINDS)
    pattern = _pick(rng, _patterns(rng))
    x_is_bad = rng.random() < 0.5
    x, y = (kind.bad, kind.good) if x_is_bad else (kind.good, kind.bad)
    text = pattern.text.format(
        s=f"{_pick(rng, words.OWNERS)} {_pick(rng, kind.things)}",
        x=_pick(rng, x),
        y=_pick(rng, y),
        t=_pick(rng, words.TIMES),
    )
    if rng.random() < 0.25:
        text = f"{_pick(rng, words.OPENINGS)}, {text}"
    if rng.random() < 0.25:
        text = f"{text}, {_pick(rng, words.CLOSINGS)}"
    return text, int(x_is_bad != pattern.flips)


def generate(examples: int, seed: int, label_noise: float = LABEL_NOISE) -> tuple[list[str], list[int]]:
    rng = Random(seed)
    labels: dict[str, int] = {}
    while len(labels) < examples:
        text, label = _message(rng)
        flipped = rng.random() < label_noise
        labels.setdefault(text, label ^ flipped)
    return list(labels), list(labels.values())


def rows() -> tuple[list[str], list[int], list[str], list[int]]:
    texts, labels = generate(TRAIN_EXAMPLES + VALIDATION_EXAMPLES, SEED)
    return texts[:TRAIN_EXAMPLES], labels[:TRAIN_EXAMPLES], texts[TRAIN_EXAMPLES:], labels[TRAIN_EXAMPLES:]
