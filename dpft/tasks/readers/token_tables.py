"""Sentences with a tag for each token, from column files, tables or the hub."""

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
from dpft.tasks.readers.source import Source

TOKENS = ("tokens", "words")
TAGS = ("ner_tags", "tags", "labels")
DOCUMENT = "document"  # the unit of a column file with -DOCSTART- lines


@dataclass(frozen=True)
class Sentences:
    """N sentences: their tokens, and as many BIO tags.

    numbers: where each stands in its file, which `where` spells out. units: (N,) whose sentences they are, where that
    was asked.
    """

    tokens: Sequence[Sequence[str]]
    tags: Sequence[Sequence[str]]
    numbers: Sequence[int]
    where: Callable[[int], str]
    units: NDArray[np.int64] | None = None

    def some(self, rows: NDArray[np.int64]) -> Sentences:
        """These sentences alone."""
        units = None if self.units is None else self.units[rows]
        tokens, tags = ([of[row] for row in rows] for of in (self.tokens, self.tags))
        return Sentences(tokens, tags, [self.numbers[row] for row in rows], self.where, units)


def of_columns(file: Path, unit: str | None) -> Sentences:
    """From a column file; its only unit is the document. Raises UserError that names a line."""
    found = conll.read(file)
    sentences = Sentences(found.tokens, found.tags, found.lines, lambda line: f"line {line} of {file.name}")
    if unit is None:
        return sentences
    if unit != DOCUMENT or not any(found.documents):
        raise UserError(
            f"the unit of a column file must be {DOCUMENT}, in files with {conll.DOCUMENT} lines, got {unit!r} for "
            f"{file.name}; drop --unit"
        )
    _, numbers = np.unique(found.documents, return_inverse=True)  # from 0 on, without documents that hold nothing
    return replace(sentences, units=np.asarray(numbers, np.int64))


def of_table(table: Source, named: Sequence[str], unit: str | None) -> Sentences:
    """From a table with a column of tokens and one of tags: lists, as long as each other.

    named: what whole numbers among the tags stand for. Raises UserError that names a row.
    """
    tokens, tags, numbers, owners = [], [], [], []
    asked = [_column(table, TOKENS), _column(table, TAGS)]
    if unit is not None and unit not in table.columns():
        raise UserError(f"the unit must be a column of {table.name}, got none named {unit!r}; pass --unit COLUMN")
    for number, (words, marks, *owner) in table.rows(asked if unit is None else [*asked, unit]):
        where = table.where(number)
        if not isinstance(words, list) or not isinstance(marks, list) or not all(map(_is_word, words)):
            raise UserError(
                f"tokens and tags must be lists, tokens of texts, none blank, got others in {where}; mend the data"
            )
        if len(words) != len(marks):
            raise UserError(
                f"a sentence must have as many tags as tokens, got {len(marks)} for {len(words)} in {where}; "
                "mend the data"
            )
        tokens.append(words)
        tags.append([_name(mark, named, where) for mark in marks])
        numbers.append(number)
        owners += owner
    units = None if unit is None else numbered(owners, unit, lambda row: table.where(numbers[row]))
    return Sentences(tokens, tags, numbers, table.where, units)


def names_of(file: Path) -> tuple[str, ...]:
    """The names of the tags in a parquet file's metadata, as `datasets` writes them; none where it says nothing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found: Any = json.loads((pq.read_schema(file).metadata or {}).get(b"huggingface", b"null"))
    except (OSError, ValueError, pa.ArrowException):  # whether it can be read is told when its rows are
        return ()
    features = _under(_under(found, "info"), "features")
    for column in TAGS:
        named = _under(_under(_under(features, column), "feature"), "names")
        if isinstance(named, list) and named:
            return tuple(map(str, named))
    return ()


def _under(about: Any, key: str) -> Any:
    return about.get(key) if isinstance(about, dict) else None


def _column(table: Source, names: Sequence[str]) -> str:
    for name in names:
        if name in table.columns():
            return name
    raise UserError(f"{table.name} must have a column {' or '.join(names)}, got none; rename the column")


def _is_word(word: Any) -> bool:
    return isinstance(word, str) and not word.isspace() and word != ""


def _name(mark: Any, named: Sequence[str], where: str) -> str:
    """A tag's name, of a name or a number."""
    if isinstance(mark, int) and not isinstance(mark, bool):
        if not named:
            raise UserError(f"tags must be names, or numbers that the file names, got others in {where}; map them")
        if not 0 <= mark < len(named):
            raise UserError(f"tags must be numbers from 0 to {len(named) - 1}, got another in {where}; mend the data")
        mark = named[mark]
    if not isinstance(mark, str) or not is_tag(mark):
        raise UserError(f"tags must be O, B-TYPE or I-TYPE, got another in {where}; convert the tags")
    return mark
