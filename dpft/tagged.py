"""What a model of words finds in texts: each word's tag, the entities they spell, and how many of them are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.tasks.tags import entities
from dpft.tasks.words import Words

_ALL, _TYPE = "entity", "type {}"  # what figures of all entities are called, and of a type that is called so
_FIGURES = {"f1": "f1-score", "precision": "precision", "recall": "recall"}


@dataclass(frozen=True)
class Word:
    """A word of a text, from character `start` to before `end`, with its tag and that tag's probability."""

    text: str
    label: str
    probability: float
    start: int
    end: int


@dataclass(frozen=True)
class Entity:
    """An entity of type `label` at these characters of a text; the probability is the mean of its words'."""

    text: str
    label: str
    probability: float
    start: int
    end: int


@dataclass(frozen=True)
class Tagged:
    """A text's words, and the entities that their tags spell."""

    words: tuple[Word, ...]
    entities: tuple[Entity, ...]


def read(texts: Sequence[str], words: Words, outputs: NDArray[np.float32], labels: Sequence[str]) -> list[Tagged]:
    """Tags and entities of N texts. outputs: (W, C) logits of all their words, end to end."""
    shifted = np.exp(outputs.astype(np.float64) - outputs.max(1, keepdims=True, initial=-np.inf))
    chances = shifted / shifted.sum(1, keepdims=True)
    found = []
    for number, text in enumerate(texts):
        own = chances[words.starts[number] : words.starts[number + 1]]
        spans = words.of_text(number).tolist()
        tagged = [
            Word(text[start:end], labels[int(chance.argmax())], float(chance.max()), start, end)
            for (start, end), chance in zip(spans, own, strict=True)
        ]
        found.append(Tagged(tuple(tagged), tuple(_entities(text, tagged))))
    return found


def _entities(text: str, words: Sequence[Word]) -> list[Entity]:
    found = []
    for kind, first, behind in entities([word.label for word in words]):
        start, end = words[first].start, words[behind - 1].end
        chance = float(np.mean([word.probability for word in words[first:behind]]))
        found.append(Entity(text[start:end], kind, chance, start, end))
    return found


def figures(
    outputs: NDArray[np.float32], gold: NDArray[np.int64], words: Words, labels: Sequence[str]
) -> dict[str, float]:
    """Micro-averaged F1, precision and recall of entities, and each type's, as `seqeval` counts them.

    An entity is right where its words and its type are (Tjong Kim Sang and De Meulder 2003). outputs: (W, C), gold:
    (W,), of all words end to end. All are 0 for a model that has diverged, and where there is nothing to find.
    """
    right = _sentences(gold, words, labels)
    finite = bool(np.isfinite(outputs).all())
    guessed = _sentences(outputs.argmax(1) if finite else np.zeros(len(gold), np.int64), words, labels)
    report = _report(right, guessed)
    types = [label[2:] for label in labels if label.startswith("B-")]
    own = {_TYPE.format(kind) if kind == _ALL else kind: report.get(kind, {}) for kind in types}
    rows = {_ALL: report.get("micro avg", {}), **own}
    return {
        f"{name}_{ours}": float(row.get(theirs, 0.0)) for name, row in rows.items() for ours, theirs in _FIGURES.items()
    }


def _report(right: Sequence[list[str]], guessed: Sequence[list[str]]) -> dict[str, Any]:
    if not any(tag != "O" for tags in (*right, *guessed) for tag in tags):
        return {}
    from seqeval.metrics import classification_report

    found: dict[str, Any] = classification_report(list(right), list(guessed), output_dict=True, zero_division=0)
    return found


def _sentences(tags: NDArray[np.int64], words: Words, labels: Sequence[str]) -> list[list[str]]:
    names = [labels[tag] for tag in tags]
    return [names[start:end] for start, end in pairwise(words.starts.tolist())]
