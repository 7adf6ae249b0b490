"""Entities in texts, and how many of them are right."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from dpft.data import bio_tags as tags
from dpft.data.words import Words, join_words, split_words
from dpft.objectives import tagging

LABELS = tags.names(("PER", "creative-work"))


def chunks(sentence: list[str]) -> set[tuple[str, int, int]]:
    """By the definition of conlleval: an entity goes on while inner tags of its type follow."""
    found, at = set(), 0
    while at < len(sentence):
        kind, end = sentence[at][2:], at + 1
        while kind and end < len(sentence) and sentence[end] == f"I-{kind}":
            end += 1
        if kind:
            found.add((kind, at, end))
        at = end
    return found


def counted(right: list[list[str]], guessed: list[list[str]], kind: str = "") -> tuple[float, float, float]:
    """Precision, recall and F1 from sets of (type, first, last)."""
    hits = a = b = 0
    for one, other in zip(right, guessed, strict=True):
        wanted, found = ({c for c in chunks(s) if kind in ("", c[0])} for s in (one, other))
        hits, a, b = hits + len(wanted & found), a + len(found), b + len(wanted)
    precision, recall = hits / a if a else 0.0, hits / b if b else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0


def sentences(numbers: np.ndarray, words: Words) -> list[list[str]]:
    return [[LABELS[n] for n in numbers[a:b]] for a, b in zip(words.starts, words.starts[1:], strict=False)]


def test_figures_are_those_counted_by_hand() -> None:
    rng = Random(0)
    for _ in range(30):
        _, words = join_words([["x"] * rng.randrange(0, 7) for _ in range(6)])
        count = len(words.spans)
        gold = np.array([rng.randrange(len(LABELS)) for _ in range(count)], np.int64)
        outputs = np.array([[rng.random() + (i == g) * 0.6 for i in range(len(LABELS))] for g in gold], np.float32)
        found = tagging.figures(outputs.reshape(count, len(LABELS)), gold, words, LABELS)
        right, guessed = sentences(gold, words), sentences(outputs.argmax(1) if count else gold, words)
        for name, kind in (("entity", ""), ("PER", "PER"), ("creative-work", "creative-work")):
            own = tuple(found[f"{name}_{of}"] for of in ("precision", "recall", "f1"))
            assert own == pytest.approx(counted(right, guessed, kind)), name


def test_an_entity_does_not_cross_into_the_next_sentence() -> None:
    _, words = join_words([["a"], ["b"]])
    gold = np.array([1, 2], np.int64)  # two entities: the second sentence begins anew
    joint = tagging.figures(np.eye(len(LABELS), dtype=np.float32)[gold], gold, words, LABELS)
    assert joint["entity_f1"] == 1
    one = tagging.figures(np.eye(len(LABELS), dtype=np.float32)[[1, 0]], gold, words, LABELS)
    assert (one["entity_precision"], one["entity_recall"]) == (1, 0.5)


def test_nothing_to_find_and_a_model_that_has_diverged_score_zero() -> None:
    _, words = join_words([["a", "b"]])
    gold = np.array([0, 0], np.int64)
    none = tagging.figures(np.eye(len(LABELS), dtype=np.float32)[gold], gold, words, LABELS)
    assert set(none.values()) == {0.0}
    bad = np.full((2, len(LABELS)), np.nan, np.float32)
    assert set(tagging.figures(bad, np.array([1, 0]), words, LABELS).values()) == {0.0}


def test_entities_stand_where_they_are_in_the_given_text() -> None:
    texts = ["So  Anna Rossi's film,\n“Rio” runs", "", "no"]
    words = split_words(texts)
    chosen = {"Anna": 1, "Rossi": 2, "Rio": 3}
    numbers = [chosen.get(texts[t][a:b], 0) for t in range(3) for a, b in words.of_text(t)]
    found = tagging.read(texts, words, 5 * np.eye(len(LABELS), dtype=np.float32)[numbers], LABELS)
    assert [[(e.text, e.label) for e in one.entities] for one in found] == [
        [("Anna Rossi", "PER"), ("Rio", "creative-work")], [], [],
    ]  # fmt: skip
    for text, one in zip(texts, found, strict=True):
        assert all(text[part.start : part.end] == part.text for part in (*one.words, *one.entities))
    chance = np.exp(5) / (np.exp(5) + len(LABELS) - 1)
    assert found[0].entities[0].probability == pytest.approx(chance)


def test_a_type_that_is_called_like_all_of_them_keeps_its_own_figures() -> None:
    """Catches: the type's figures written over those of all entities."""
    labels = ("O", "B-entity", "I-entity", "B-PER", "I-PER")
    words = Words.of([[(0, 1), (1, 2)]])
    found = tagging.figures(np.eye(5, dtype=np.float32)[[1, 0]], np.array([1, 3]), words, labels)
    assert (found["entity_recall"], found["type entity_recall"], found["PER_recall"]) == (0.5, 1, 0)
