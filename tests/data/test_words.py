"""Words: where they stand, which token is whose first, BIO tags, and files of a token a line."""

from __future__ import annotations

import itertools
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest

from dpft.data import bio_tags as tags
from dpft.data.words import Words, first_tokens, join_words, split_words
from dpft.errors import UserError
from dpft.tasks.readers import conll

SECRET = "patient-4711"


def texts_of(texts: list[str], words: Words) -> list[list[str]]:
    return [[text[a:b] for a, b in words.of_text(number)] for number, text in enumerate(texts)]


def test_joined_sentences_hold_their_words_where_they_say() -> None:
    sentences = [["a", "good", "film"], [], ["x y", "東京"], ["one"]]
    texts, words = join_words(sentences)
    assert texts == ["a good film", "", "x y 東京", "one"]
    assert texts_of(texts, words) == sentences
    assert len(words) == 4
    assert texts_of(texts[:2], words.first(2)) == sentences[:2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Anna's e-mail, anna@x.org!", ["Anna", "'s", "e-mail", ",", "anna@x.org", "!"]),
        ("U.S. AT&T  \n3.5", ["U.S", ".", "AT&T", "3.5"]),
        ("", []),
        (" \t ", []),
        ("(東京) #tag @name", ["(", "東京", ")", "#", "tag", "@", "name"]),
        ("\ud800x", ["\ud800", "x"]),
    ],
)
def test_plain_texts_are_split_at_spaces_and_signs(text: str, words: list[str]) -> None:
    assert texts_of([text], split_words([text])) == [words]


def first_by_characters(offsets: list[tuple[int, int]], spans: list[tuple[int, int]]) -> list[int]:
    """Character by character: a token is a word's first where no earlier token holds one of its characters."""
    owner = {at: number for number, (start, end) in enumerate(spans) for at in range(start, end)}
    seen: set[int] = set()
    found = []
    for start, end in offsets:
        held = [owner[at] for at in range(start, end) if at in owner]
        fresh = held[:1] if held and held[0] not in seen else []
        found.append(fresh[0] if fresh else -1)
        seen |= set(held[:1])
    return found


def test_first_tokens_are_those_found_character_by_character() -> None:
    rng = Random(0)
    for _ in range(300):
        sentence = ["x" * rng.randrange(1, 6) for _ in range(rng.randrange(6))]
        (text,), words = join_words([sentence])
        spans = [(int(a), int(b)) for a, b in words.of_text(0)]
        offsets = []
        for start, end in spans:  # pieces of words, some of which take the space before them along, as RoBERTa's do
            cuts = sorted({start, end, *(rng.randrange(start, end) for _ in range(2))})
            offsets += [(a - (a == start > 0 and rng.random() < 0.5), b) for a, b in itertools.pairwise(cuts)]
        assert first_tokens(offsets, words.of_text(0)).tolist() == first_by_characters(offsets, spans), text


def test_a_word_that_the_tokenizer_makes_nothing_of_has_no_first_token() -> None:
    spans = np.array([(0, 1), (2, 3), (4, 5)], np.int32)
    assert first_tokens([(0, 1), (4, 5)], spans).tolist() == [0, 2]
    assert first_tokens([(0, 0), (0, 1), (1, 5)], spans).tolist() == [-1, 0, 1]  # one token over two words: the first's
    assert first_tokens([], spans).tolist() == []


@pytest.mark.parametrize(
    ("tag", "is_one"),
    [("O", True), ("B-PER", True), ("I-creative-work", True), ("", False), ("B-", False), ("PER", False),
     ("E-PER", False), ("S-PER", False), ("b-PER", False), ("B-PER,B-LOC", False), ("o", False), ("B_PER", False)],
)  # fmt: skip
def test_what_a_tag_is(tag: str, is_one: bool) -> None:
    assert tags.is_tag(tag) == is_one


def test_entities_that_touch_and_those_begun_by_an_inner_tag_are_kept_apart() -> None:
    iob1 = ["I-A", "I-A", "B-A", "O", "I-B", "I-A"]
    assert tags.begun(iob1) == ["B-A", "I-A", "B-A", "O", "B-B", "B-A"]
    assert (
        tags.entities(tags.begun(iob1)) == tags.entities(iob1) == [("A", 0, 2), ("A", 2, 3), ("B", 4, 5), ("A", 5, 6)]
    )
    labels = tags.names(["A", "B"])
    assert labels == ("O", "B-A", "I-A", "B-B", "I-B")
    assert tags.numbered([iob1, ["I-A"]], labels).tolist() == [1, 2, 1, 0, 3, 1, 1]


def test_column_files_are_read_whatever_their_separators(tmp_path: Path) -> None:
    file = tmp_path / "train.conll"
    file.write_bytes(
        b"\xef\xbb\xbf-DOCSTART- -X- O O\r\n\r\nAnna NNP I-NP B-PER\r\nruns  VBZ B-VP O\r\n\t\r\n"
        b"-DOCSTART- -X- O O\n\n\nin IN I-PP O \nRio\xc2\xa0X NNP I-NP I-LOC\n   \t \n\n\xe2\x80\xa8 X X O"
    )
    found = conll.read(file)
    assert found.tokens == [["Anna", "runs"], ["in", "Rio\xa0X"], ["\u2028"]]
    assert found.tags == [["B-PER", "O"], ["O", "I-LOC"], ["O"]]
    assert found.documents == [1, 2, 2]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (SECRET, "must hold a token and its tag, got one without in line 3"),
        (f"{SECRET}\t", "must hold a token and its tag, got one without in line 3"),
        ("\tO", "must hold a token and its tag, got one without in line 3"),
        (f"{SECRET}\tX\tO", "as many columns as the first, 2, got 3 in line 3"),
        (f"{SECRET}\tE-PER", "must be O, B-TYPE or I-TYPE, got another in line 3"),
        (f"a\tB-{SECRET},B-b", "must be O, B-TYPE or I-TYPE, got another in line 3"),
        (b"\xff" + SECRET.encode() + b"\tO", "must be UTF-8, got other bytes in line 3"),
    ],
)
def test_a_line_that_does_not_fit_is_named_by_its_number_and_not_quoted(
    tmp_path: Path, line: str | bytes, words: str
) -> None:
    file = tmp_path / "train.conll"
    file.write_bytes(b"one\tO\n\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(UserError) as caught:
        conll.read(file)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "table", "sentences", "entities"),
    [("wnut17train.conll", "train", 3394, 1975), ("emerging.dev.conll", "validation", 1009, 836),
     ("emerging.test.annotated", "test", 1287, 1079)],
)  # fmt: skip
def test_real_column_files_equal_their_tables(
    shared_data: Path, file: str, table: str, sentences: int, entities: int
) -> None:
    """WNUT-17: 2,394 of the 3,394 separators of its training file are a line with a tab. Counts of its authors."""
    found = conll.read(shared_data / "wnut17" / file)
    wanted = pd.read_parquet(shared_data / "wnut17" / f"{table}.parquet")
    assert found.tokens == [list(tokens) for tokens in wanted["tokens"]]
    labels = tags.names(("corporation", "creative-work", "group", "location", "person", "product"))
    assert tags.numbered(found.tags, labels).tolist() == [tag for row in wanted["ner_tags"] for tag in row]
    assert (len(found.tokens), sum(len(tags.entities(row)) for row in found.tags)) == (sentences, entities)


def test_a_real_file_of_several_tags_a_token_is_refused(shared_data: Path) -> None:
    with pytest.raises(UserError, match=r"got another in line \d+ of emerging.test.conll"):
        conll.read(shared_data / "wnut17" / "emerging.test.conll")
