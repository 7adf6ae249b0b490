"""The built-in messages to write: fixed, distinct, short, plain, and told apart by their labels."""

from __future__ import annotations

import hashlib
import json
import time

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from dpft import tasks
from dpft.errors import UserError
from dpft.spec import BUILTIN_LM, Spec
from dpft.tasks import text_sample

DIGEST = "7a3eaec08c8c7215197fe110e36d0551a183c67c623759b78ae2b16ed4107f53"
ASKED = Spec(task="text/sample")


@pytest.fixture(scope="module")
def task() -> tasks.Task:
    return tasks.load(ASKED)


def test_rows_never_drift(task: tasks.Task) -> None:
    parts = [[list(rows.texts), rows.labels.tolist()] for rows in (task.train, task.judged[""])]
    assert hashlib.sha256(json.dumps(parts).encode()).hexdigest() == DIGEST


def test_generation_is_a_function_of_the_seed_and_fewer_are_a_prefix_of_more() -> None:
    texts, labels = text_sample.generate(50, seed=1)
    assert text_sample.generate(20, seed=1) == (texts[:20], labels[:20])
    assert text_sample.generate(50, seed=2)[0] != texts
    assert text_sample.generate(0, seed=1) == ([], [])


def test_sizes_labels_and_control_codes_are_as_declared(task: tasks.Task) -> None:
    assert (len(task.train), len(task.judged[""])) == (4_000, 500)
    assert task.labels == ("billing", "delivery", "fault", "praise")
    for rows in (task.train, task.judged[""]):
        shares = np.bincount(rows.labels, minlength=4) / len(rows)
        assert shares.min() > 0.2
        assert list(rows.pairs or ()) == [f"Label: {task.labels[label]}\n" for label in rows.labels]
    assert task.read_from_training == ()


def test_every_text_is_unique_so_train_and_validation_share_none(task: tasks.Task) -> None:
    texts = [*task.train.texts, *task.judged[""].texts]
    assert len(set(texts)) == len(texts)


def test_messages_are_short_plain_text(task: tasks.Task) -> None:
    lengths = [len(text.split()) for text in task.train.texts]
    assert min(lengths) >= 4
    assert max(lengths) <= 50
    assert 15 < sum(lengths) / len(lengths) < 30
    assert all(text.isascii() and text == " ".join(text.split()) and "{" not in text for text in task.train.texts)


def test_counting_words_tells_the_labels_apart(task: tasks.Task) -> None:
    """So that a classifier trained on written texts shows whether they have the label that they were written for."""
    counts, judged = CountVectorizer(), task.judged[""]
    probe = LogisticRegression(max_iter=300).fit(counts.fit_transform(task.train.texts), task.train.labels)
    assert probe.score(counts.transform(judged.texts), judged.labels) > 0.95


def test_it_brings_its_own_data() -> None:
    for more, told in (({"data": "x"}, "--data"), ({"unit": "x"}, "--unit"), ({"text": "x"}, "--text")):
        with pytest.raises(UserError, match=f"got .*{told}|takes {told}"):
            tasks.load(Spec(task="text/sample", **more))  # type: ignore[arg-type]
    assert tasks.settled(ASKED).model == BUILTIN_LM
    assert tasks.judged(ASKED, None, tasks.load(ASKED).objective, text_sample.LABELS)[""].documents is not None


def test_generation_takes_under_a_second() -> None:
    start = time.process_time()
    text_sample.generate(4_500, text_sample.SEED)
    assert time.process_time() - start < 1
