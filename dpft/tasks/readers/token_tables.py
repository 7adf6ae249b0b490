"""Sentences with a tag for each token, from CoNLL files, tables or the hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.data.bio_tags import is_tag
from dpft.data.units import numbered
from dpft.errors import UserError
from dpft.tasks.readers import conll
from dpft.tasks.readers.source import TableSource

TOKENS = ("tokens", "words")
TAGS = ("ner_tags", "tags", "labels")
DOCUMENT = "document"  # the unit of a CoNLL file with -DOCSTART- lines


@dataclass(frozen=True)
class Sentences:
    """N sentences: tokens, and a BIO tag for each.

    numbers: the position of each in its file, which `where` turns into text. units: (N,) the unit of each, None where
    each sentence is its own.
    """

    tokens: Sequence[Sequence[str]]
    tags: Sequence[Sequence[str]]
    numbers: Sequence[int]
    where: Callable[[int], str]
    units: NDArray[np.int64] | None = None

    def some(self, rows: NDArray[np.int64]) -> Sentences:
        """The sentences with the numbers `rows`."""
        units = None if self.units is None else self.units[rows]
        tokens, tags = ([of[row] for row in rows] for of in (self.tokens, self.tags))
        return Sentences(tokens, tags, [self.numbers[row] for row in rows], self.where, units)


def read_conll(file: Path, unit: str | None) -> Sentences:
    """Read a CoNLL file. Its only unit column is the document. Raises UserError that names a line."""
    found = conll.read(file)
    sentences = Sentences(found.tokens, found.tags, found.lines, lambda line: f"line {line} of {file.name}")
    if unit is None:
        return sentences
    if unit != DOCUMENT or not any(found.documents):
        raise UserError(
            f"the unit of a column file must be {DOCUMENT}, in files with {conll.DOCUMENT} lines, got {unit!r} for "
            f"{file.name}; drop --unit"
        )
    _, numbers = np.unique(found.documents, return_inverse=True)  # from 0, without empty documents
    return replace(sentences, units=np.asarray(numbers, np.int64))


def read_table(table: TableSource, named: Sequence[str], unit: str | None) -> Sentences:
    """Read a table with a column of tokens and one of tags, lists of equal length.

    named: the names of numeric tags. Raises UserError that names a row.
    """
    tokens, tags, numbers, owners = [], [], [], []
    asked = [_column(table, TOKENS), _column(table, TAGS)]
    if unit is not None and unit not in table.columns():
        raise UserError(f"the unit must be a column of {table.name}, got none named {unit!r}; pass --unit COLUMN")
    for number, (words, marks, *owner) in table.rows(asked if unit is None else [*asked, unit]):
        where = table.where(number)
        if not isinstance(words, list) or not isinstance(marks, list) or not all(map(_is_word, words)):
            raise UserError(
                f"tokens and tags must be lists, tokens of texts, none blank, got others in {where}; fix the data"
            )
        if len(words) != len(marks):
            raise UserError(
                f"a sentence must have as many tags as tokens, got {len(marks)} for {len(words)} in {where}; "
                "fix the data"
            )
        tokens.append(words)
        tags.append([_name(mark, named, where) for mark in marks])
        numbers.append(number)
        owners += owner
    units = None if unit is None else numbered(owners, unit, lambda row: table.where(numbers[row]))
    return Sentences(tokens, tags, numbers, table.where, units)


def names_of(file: Path) -> tuple[str, ...]:
    """The tag names in a parquet file's metadata, as `datasets` writes them; empty where there are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found: Any = json.loads((pq.read_schema(file).metadata or {}).get(b"huggingface", b"null"))
    except (OSError, ValueError, pa.ArrowException):  # an unreadable file is reported when its rows are read
        return ()
    features = _under(_under(found, "info"), "features")
    for column in TAGS:
        named = _under(_under(_under(features, column), "feature"), "names")
        if isinstance(named, list) and named:
            return tuple(map(str, named))
    return ()


def _under(about: Any, key: str) -> Any:
    return about.get(key) if isinstance(about, dict) else None


def _column(table: TableSource, names: Sequence[str]) -> str:
    for name in names:
        if name in table.columns():
            return name
    raise UserError(f"{table.name} must have a column {' or '.join(names)}, got none; rename the column")


def _is_word(word: Any) -> bool:
    return isinstance(word, str) and not word.isspace() and word != ""


def _name(mark: Any, named: Sequence[str], where: str) -> str:
    """The name of a tag given as a name or a number."""
    if isinstance(mark, int) and not isinstance(mark, bool):
        if not named:
            raise UserError(f"tags must be names, or numbers that the file names, got others in {where}; map them")
        if not 0 <= mark < len(named):
            raise UserError(f"tags must be numbers from 0 to {len(named) - 1}, got another in {where}; fix the data")
        mark = named[mark]
    if not isinstance(mark, str) or not is_tag(mark):
        raise UserError(f"tags must be O, B-TYPE or I-TYPE, got another in {where}; convert the tags")
    return mark
