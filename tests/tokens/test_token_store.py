"""Tokens kept on the disk: the same as encoded anew, their owner's alone, and never trusted when damaged."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from dpft.data.encoded import Encoded
from dpft.data.examples import Examples
from dpft.tasks import files
from dpft.tasks.readers.tables import of_file
from dpft.tokens import token_store
from dpft.tokens.encode import encode

TEXTS = ["a good film", "", "the story is not dull at all, and the cast is fresh", "bad"] * 3


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_bert)


@pytest.fixture
def rows() -> Examples:
    return Examples(TEXTS, TEXTS[::-1], np.arange(len(TEXTS)), np.arange(len(TEXTS)) // 2, "digest")


class Unread(list[str]):
    """Texts that must not be looked at."""

    def __iter__(self) -> Any:
        raise AssertionError("encoded again")


def same(one: Encoded, other: Encoded) -> bool:
    names = ("ids", "starts", "second", "read", "labels")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names) and (
        (one.padding, one.typed, len(one.units or ())) == (other.padding, other.typed, len(other.units or ()))
    )


def test_what_is_kept_is_what_encoding_gives_and_is_not_encoded_again(
    rows: Examples, tokenizer: Any, tmp_path: Path
) -> None:
    anew = encode(rows, tokenizer, "mask", 16)
    assert same(token_store.encoded(rows, tokenizer, "mask", 16, tmp_path / "kept"), anew)
    unread = dataclasses.replace(rows, texts=Unread(TEXTS), pairs=Unread(TEXTS))
    again = token_store.encoded(unread, tokenizer, "mask", 16, tmp_path / "kept")
    assert same(again, anew)
    assert isinstance(again.ids, np.memmap)


def test_other_texts_tokens_or_lengths_are_kept_apart(rows: Examples, tokenizer: Any, tmp_path: Path) -> None:
    other = dataclasses.replace(rows, digest="other", texts=TEXTS[::-1])
    for each, representation, length in ((rows, "mask", 16), (rows, "mask", 12), (rows, "cls", 16), (other, "cls", 16)):
        kept = token_store.encoded(each, tokenizer, representation, length, tmp_path)  # type: ignore[arg-type]
        assert same(kept, encode(each, tokenizer, representation, length))  # type: ignore[arg-type]
    assert len(list(tmp_path.iterdir())) == 4


def test_tokens_are_readable_by_their_owner_alone(rows: Examples, tokenizer: Any, tmp_path: Path) -> None:
    home = tmp_path / "kept"
    home.mkdir(mode=0o755)  # as an older version, or a careless hand, may have left it
    token_store.encoded(rows, tokenizer, "mean", 16, home)
    found = [home, *home.rglob("*")]
    assert len(found) == 7
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in found)


@pytest.mark.parametrize("name", ["ids", "lengths", "second", "read", "whole.json"])
@pytest.mark.parametrize("cut", [0, -1])
def test_a_damaged_file_is_encoded_anew(rows: Examples, tokenizer: Any, tmp_path: Path, name: str, cut: int) -> None:
    """The injected damage: a flipped last byte, as a bad disk gives, or a file that is cut off."""
    token_store.encoded(rows, tokenizer, "mean", 16, tmp_path)
    (file,) = tmp_path.glob(f"*/{name}")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + (bytes([content[-1] ^ 1]) if cut == 0 else b""))
    assert same(token_store.encoded(rows, tokenizer, "mean", 16, tmp_path), encode(rows, tokenizer, "mean", 16))


def test_where_nothing_can_be_kept_the_tokens_are_in_memory(rows: Examples, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    anew = encode(rows, tokenizer, "mean", 16)
    assert same(token_store.encoded(rows, tokenizer, "mean", 16, tmp_path / "file"), anew)
    assert same(
        token_store.encoded(dataclasses.replace(rows, digest=None), tokenizer, "mean", 16, tmp_path / "n"), anew
    )
    assert not (tmp_path / "n").exists()


def test_an_encoding_that_is_broken_off_leaves_nothing(rows: Examples, tokenizer: Any, tmp_path: Path) -> None:
    class Breaking(list[str]):
        def __iter__(self) -> Any:
            yield "a"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        token_store.encoded(dataclasses.replace(rows, texts=Breaking(TEXTS)), tokenizer, "mean", 16, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_large_files_have_a_digest_and_it_is_their_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpft.spec import Spec

    def digest(content: str) -> str | None:
        (tmp_path / "own.csv").write_text("text,label\n" + content)
        spec = Spec(task="files", data=str(tmp_path / "own.csv"), text="text", label="label")
        return files.FAMILY.load(spec).train.digest

    assert digest("x,a\ny,b\n") is None
    monkeypatch.setattr(files, "STORED_ROWS", 2)
    assert digest("x,a\ny,b\n") == digest("x,a\ny,b\n") != digest("x,a\nz,b\n")
    assert len(of_file(tmp_path / "own.csv").digest) == 64
