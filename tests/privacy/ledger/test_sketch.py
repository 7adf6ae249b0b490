"""Data are known again however they are dressed, and strangers are not taken for each other."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest

from dpft.privacy.ledger.storage import fingerprints as module
from dpft.privacy.ledger.storage.fingerprints import Sketch, record_key

KEY = b"k" * 32
TEXTS = [f"café number {i}, on street {i % 7}" for i in range(3000)]
GLUE = {"sst2": ["sentence"], "cola": ["sentence"], "mrpc": ["sentence1", "sentence2"],
        "rte": ["sentence1", "sentence2"], "stsb": ["sentence1", "sentence2"]}  # fmt: skip


def of(texts: list[str], pairs: list[str] | None = None) -> Sketch:
    return Sketch.of(KEY, texts, pairs)


def shuffled(texts: list[str]) -> list[str]:
    return Random(1).sample(texts, len(texts))


def test_a_record_key_is_hmac_sha256_of_the_plain_text() -> None:
    """The oracle spells the definition out. Catches: a hash without the key; another normal form."""
    plain = unicodedata.normalize("NFC", "cafe\u0301 au lait")
    expected = hmac.new(KEY, plain.encode(), hashlib.sha256).digest()[:8]
    assert record_key(KEY, " cafe\u0301\t au\n lait ") == expected
    assert record_key(b"other", plain) != expected
    pair = hmac.new(KEY, b"a b\nc", hashlib.sha256).digest()[:8]
    assert record_key(KEY, "c", "a  b") == record_key(KEY, "a b", "c") == pair
    assert record_key(KEY, "a b c") != pair
    assert len(record_key(KEY, "\ud800")) == 8


@pytest.mark.parametrize(
    "dress",
    [
        shuffled,
        lambda texts: Random(2).sample(texts, len(texts) // 100),
        lambda texts: texts + [f"added {i}" for i in range(30_000)],
        lambda texts: [unicodedata.normalize("NFD", text) for text in texts],
        lambda texts: ["  " + text.replace(" ", "\u00a0\t") + "\r\n" for text in texts],
        lambda texts: texts[:300] + [f"another {i}" for i in range(2700)],
        lambda texts: texts * 3,
        lambda texts: texts[:1],
        lambda texts: texts[:2],
    ],
    ids=["shuffled", "1 % subset", "rows added", "unicode", "blanks", "a tenth kept", "repeated", "one", "two"],
)  # fmt: skip
def test_the_same_data_in_another_dress_match(dress: Callable[[list[str]], list[str]]) -> None:
    """Catches: order, repeats, blanks or Unicode in the key; an overlap taken of the larger set."""
    assert of(TEXTS).matches(of(dress(TEXTS)))
    assert of(dress(TEXTS)).matches(of(TEXTS))


@pytest.mark.parametrize("share", [0, 2, 140])
def test_strangers_with_a_few_stock_phrases_do_not_match(share: int) -> None:
    """140 of 3,000 is just below 5 %."""
    others = TEXTS[:share] + [f"stranger {i}" for i in range(3000 - share)]
    assert not of(TEXTS).matches(of(others))


def test_the_threshold_is_five_per_cent_and_three_records() -> None:
    for share, same in ((149, False), (150, True)):
        assert of(TEXTS).matches(of(TEXTS[:share] + [f"x {i}" for i in range(3000 - share)])) is same
    for share, same in ((2, False), (3, True)):
        assert of(TEXTS).matches(of([*TEXTS[:share], "x 1"])) is same
    assert not of(TEXTS).matches(of(["x"]))
    assert not of(TEXTS).matches(of([]))
    assert not of([]).matches(of([]))


def test_sketches_that_are_cut_compare_only_what_both_would_have_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: all kept keys compared, so that a large set and its half would share less and less."""
    monkeypatch.setattr(module, "SKETCH_KEYS", 256)
    whole = of(TEXTS)
    assert len(whole.keys) == 256
    everything = {int.from_bytes(record_key(KEY, text), "little") for text in TEXTS}
    assert whole.keys.tolist() == sorted(everything)[:256]
    for count in (1500, 300, 100):
        assert whole.matches(of(shuffled(TEXTS)[:count])), count
    assert not whole.matches(of([f"stranger {i}" for i in range(3000)]))
    assert whole.matches(of(TEXTS[:1500] + [f"new {i}" for i in range(1500)]))
    assert not whole.is_new_to([whole])
    assert not of(shuffled(TEXTS)[:200]).is_new_to([whole])
    assert of([*TEXTS, *(f"new {i}" for i in range(300))]).is_new_to([whole])


def test_a_sketch_survives_its_bytes() -> None:
    one = of(TEXTS)
    again = Sketch.from_bytes(one.blob)
    assert np.array_equal(one.keys, again.keys)
    assert one.digest == again.digest == hashlib.sha256(one.blob).hexdigest()
    assert of(shuffled(TEXTS)).digest == one.digest
    assert Sketch.of(b"other", TEXTS, None).digest != one.digest


@pytest.fixture(scope="module")
def tasks(shared_data: Path) -> dict[str, tuple[list[str], list[str] | None]]:
    found = {}
    for name, columns in GLUE.items():
        file = shared_data / "glue" / name / "train.parquet"
        if file.is_file():
            table = pd.read_parquet(file)
            found[name] = (table[columns[0]].tolist(), table[columns[1]].tolist() if len(columns) > 1 else None)
    spam = shared_data / "sms_spam" / "train.parquet"
    if spam.is_file():
        table = pd.read_parquet(spam)
        found["sms_spam"] = (table.select_dtypes(exclude="number").iloc[:, -1].tolist(), None)
    if len(found) < 3:
        pytest.skip("needs three real tasks at least; set DPFT_DATA")
    return found


def test_real_tasks_that_have_nothing_in_common_do_not_match(
    tasks: dict[str, tuple[list[str], list[str] | None]],
) -> None:
    sketches = {name: of(*data) for name, data in tasks.items()}
    for first in sketches:
        for second in sketches:
            assert sketches[first].matches(sketches[second]) is (first == second), (first, second)


def test_one_per_cent_of_a_real_task_is_known_again(tasks: dict[str, tuple[list[str], list[str] | None]]) -> None:
    for name, (texts, pairs) in tasks.items():
        some = Random(0).sample(range(len(texts)), max(3, len(texts) // 100))
        part = of([texts[i] for i in some], [pairs[i] for i in some] if pairs else None)
        assert of(texts, pairs).matches(part), name


def test_the_same_people_are_known_with_a_column_more_or_less_or_exchanged() -> None:
    """Catches: a pair keyed as one record alone, so that the same file with --pair is a new population."""
    partners = [f"answer {i} of that day" for i in range(len(TEXTS))]
    pairs = of(TEXTS, partners)
    for other in (of(TEXTS), of(partners), of(partners, TEXTS), of(TEXTS[:100]), of(TEXTS, ["same"] * len(TEXTS))):
        assert pairs.matches(other)
        assert other.matches(pairs)
    alone = [
        record_key(KEY, text, pair) for text, pair in zip(TEXTS, partners, strict=True)
    ]  # as kept by older ledgers
    assert pairs.matches(Sketch(np.unique(np.frombuffer(b"".join(alone), "<u8")).astype(np.uint64)))


def test_stock_phrases_in_one_column_join_no_strangers() -> None:
    stock = ["Is it true?", "Yes.", "No.", "Maybe.", "I do not know."]
    ours, theirs = ([f"{who} {i}" for i in range(400)] for who in ("ours", "theirs"))
    column = [stock[i % 5] for i in range(400)]
    assert not of(ours, column).matches(of(theirs, column))
    assert not of(ours, column).matches(of(theirs))
