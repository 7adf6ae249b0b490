"""The built-in `sample` task keeps the properties that make it a fair demonstration."""

from __future__ import annotations

import hashlib
import json
import time

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from dpft.tasks import sample

Examples = tuple[list[str], list[int], list[str], list[int]]
DIGEST = "92be63f271776f2d3ba2b570262a003af7dc80d57b18af860570998c10453228"


@pytest.fixture(scope="module")
def rows() -> Examples:
    return sample.rows()


def test_rows_never_drift(rows: Examples) -> None:
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest() == DIGEST


def test_generation_is_a_function_of_the_seed() -> None:
    assert sample.generate(50, seed=1) == sample.generate(50, seed=1)
    assert sample.generate(50, seed=1) != sample.generate(50, seed=2)


def test_fewer_examples_are_a_prefix_of_more() -> None:
    texts, labels = sample.generate(50, seed=1)
    assert sample.generate(20, seed=1) == (texts[:20], labels[:20])


def test_no_examples_and_one_example_are_served() -> None:
    assert sample.generate(0, seed=1) == ([], [])
    assert [len(part) for part in sample.generate(1, seed=1)] == [1, 1]


def test_sizes_are_as_declared(rows: Examples) -> None:
    train, validation = sample.TRAIN_EXAMPLES, sample.VALIDATION_EXAMPLES
    assert [len(part) for part in rows] == [train, train, validation, validation]


def test_every_text_is_unique_so_train_and_validation_share_none(rows: Examples) -> None:
    texts = rows[0] + rows[2]
    assert len(set(texts)) == len(texts)


def test_labels_are_named_and_balanced(rows: Examples) -> None:
    for labels in (rows[1], rows[3]):
        assert set(labels) == set(range(len(sample.LABELS)))
        assert 0.45 < sum(labels) / len(labels) < 0.55


def test_messages_are_short_plain_text(rows: Examples) -> None:
    lengths = [len(text.split()) for text in rows[0] + rows[2]]
    assert min(lengths) >= 3
    assert max(lengths) <= 22
    assert 7 < sum(lengths) / len(lengths) < 10
    assert all(text.isascii() and text == " ".join(text.split()) and "{" not in text for text in rows[0])


def test_label_noise_flips_the_declared_share_and_leaves_the_texts() -> None:
    examples = sample.TRAIN_EXAMPLES
    noisy_texts, noisy = sample.generate(examples, sample.SEED)
    texts, clean = sample.generate(examples, sample.SEED, label_noise=0.0)
    flipped = sum(a != b for a, b in zip(noisy, clean, strict=True)) / examples
    assert texts == noisy_texts
    assert flipped == pytest.approx(sample.LABEL_NOISE, abs=0.005)  # 3.6 standard errors


def test_denying_a_state_turns_the_label() -> None:
    texts, labels = sample.generate(20_000, seed=3, label_noise=0.0)
    known = dict(zip(texts, labels, strict=True))
    pairs = [
        (label, known[text.replace(" is ", " is not ", 1)])
        for text, label in known.items()
        if text.replace(" is ", " is not ", 1) in known and " is " in text
    ]
    assert pairs
    assert all(asserted != denied for asserted, denied in pairs)


def test_counting_words_does_not_solve_the_task(rows: Examples) -> None:
    texts, labels, validation_texts, validation_labels = rows
    counts = CountVectorizer()
    probe = LogisticRegression(max_iter=300).fit(counts.fit_transform(texts), labels)
    assert probe.score(counts.transform(validation_texts), validation_labels) < 0.72


def test_generation_takes_under_a_second_and_a_half() -> None:
    start = time.process_time()
    sample.rows()
    assert time.process_time() - start < 1.5
