"""One tag for each word of a text, the entities that tags form, and their F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpft.data.bio_tags import entities
from dpft.data.examples import Examples
from dpft.data.words import Words, split_words
from dpft.errors import UserError
from dpft.objectives._objective import ExportTarget, Floats, Labels, Metric, Objective, Wording, labels_of
from dpft.objectives.classification import chances, check_numbers, two_sides
from dpft.spec import Representation, Spec

_ALL, _TYPE = "entity", "type {}"  # name prefixes of figures over all entities, and of one type
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
    """The words of a text, and the entities that their tags form."""

    words: tuple[Word, ...]
    entities: tuple[Entity, ...]


@dataclass(frozen=True)
class Tagging(Objective):
    """One label for each word: softmax and cross-entropy, averaged over the words of one example and of no other.

    An example without words has a loss of 0. Labels: of all words end to end; in a batch (B, T) int64 at each word's
    first token, below 0 at tokens without a label, with outputs (B, T, C).
    """

    kind = "token-classification"
    metrics = tuple(Metric(f"{_ALL}_{name}") for name in _FIGURES)
    representations = ("token",)
    drift = drift_alone = 1.5
    export = ExportTarget(
        "single_label_classification",
        "[[labels[i] for i in row] for row in logits.argmax(-1)]",
        auto_class="AutoModelForTokenClassification",
        custom_class="DpftForTokenClassification",
        pipeline="token-classification",
        called="tag",
        made=', aggregation_strategy="first"',
        given="",
    )
    wording = Wording(inputs="the words of texts", verb="tag", gives="tags words")
    from_column = False

    @property
    def reach(self) -> float:
        """Most words have the label O, so large initial outputs would have to be unlearned for each word."""
        return 0.1

    def representation_for(self, asked: Representation, task: str) -> Representation:
        if asked not in (Spec.representation, *self.representations):
            raise UserError(
                f"the head reads every token where words are labelled, got representation {asked!r}; "
                "drop --representation"
            )
        return self.representations[0]

    def check(self, values: NDArray[Any], labels: Labels, split: str) -> None:
        check_numbers(values, labels, split)

    def blank(self, rows: int, labels: int) -> NDArray[Any]:
        """Labels of so many words."""
        return np.zeros(rows, np.int64)

    def placeholder_rows(self, texts: Sequence[str], pairs: Sequence[str] | None, labels: int) -> Examples:
        words = split_words(texts)
        return Examples(texts, pairs, self.blank(len(words.spans), labels), words=words)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        judged = labels >= 0
        known = labels.clamp(min=0).flatten()
        each = nn.functional.cross_entropy(outputs.flatten(0, 1), known, reduction="none").view_as(labels)
        return (each * judged).sum(1) / judged.sum(1).clamp(min=1)

    def score(self, metrics: Sequence[str], outputs: Floats, rows: Examples, labels: Labels) -> dict[str, float]:
        found = figures(outputs, rows.labels, words_of(rows), labels)
        return {metric: found[metric] for metric in metrics}

    def details(self, outputs: Floats, rows: Examples, labels: Labels) -> dict[str, float]:
        """F1, precision and recall of each entity type."""
        main = {metric.name for metric in self.metrics}
        found = figures(outputs, rows.labels, words_of(rows), labels)
        return {name: value for name, value in found.items() if name not in main}

    def read(self, outputs: Floats, rows: Examples, labels: Labels) -> list[Tagged]:
        return read(rows.texts, words_of(rows), outputs, labels)

    def printed(self, found: Any, text: str) -> str:
        """A line for each word, and an empty one."""
        return "".join(f"{word.text}\t{word.label}\t{word.probability:.3f}\n" for word in found.words)

    def to_json(self, found: Any) -> dict[str, Any]:
        """Words and entities, with their character positions."""
        return asdict(found)

    def least_likely(self, outputs: Tensor) -> Tensor:
        return outputs.argmin(-1)

    def opposing(self, sides: NDArray[np.int64], turned: NDArray[np.bool_], outputs: int) -> Tensor:
        return two_sides(sides, turned, outputs)

    def position_losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.losses(outputs.unsqueeze(1), labels.unsqueeze(1))

    def row_losses(self, outputs: Floats, rows: Examples) -> NDArray[np.float64]:
        sizes = np.diff(words_of(rows).starts).tolist()
        own = zip(torch.from_numpy(outputs).double().split(sizes), labels_of(rows).split(sizes), strict=True)
        return np.array([float(self.losses(out.unsqueeze(0), tags.unsqueeze(0))) for out, tags in own])


OBJECTIVE = Tagging


def words_of(rows: Examples) -> Words:
    assert rows.words is not None
    return rows.words


def read(texts: Sequence[str], words: Words, outputs: NDArray[np.float32], labels: Sequence[str]) -> list[Tagged]:
    """Tags and entities of N texts. outputs: (W, C) logits of the words of all texts, end to end."""
    every = chances(outputs)
    found = []
    for number, text in enumerate(texts):
        own = every[words.starts[number] : words.starts[number + 1]]
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
    """F1, precision and recall of entities, micro-averaged and by type, as `seqeval` counts them.

    An entity is correct where its words and its type are (Tjong Kim Sang and De Meulder 2003). outputs: (W, C), gold:
    (W,), of all words end to end. All figures are 0 for a model that has diverged, and without entities.
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
