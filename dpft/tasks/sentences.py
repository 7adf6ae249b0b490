"""Sentences with a tag for each token, from column files, tables or the hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.spec import UserError
from dpft.tasks import columns
from dpft.tasks.tags import is_tag
from dpft.tasks.units import numbered

TOKENS = ("tokens", "words")
TAGS = ("ner_tags", "tags", "labels")
DOCUMENT = "document"  # the unit of a column file with -DOCSTART- lines


@dataclass(frozen=True)
class Sentences:
    """N sentences: their tokens, and as many BIO tags. units: (N,) whose sentences they are, where that was asked."""

    tokens: Sequence[Sequence[str]]
    tags: Sequence[Sequence[str]]
    units: NDArray[np.int64] | None = None

    def some(self, rows: NDArray[np.int64]) -> Sentences:
        """These sentences alone."""
        units = None if self.units is None else self.units[rows]
        return Sentences([self.tokens[row] for row in rows], [self.tags[row] for row in rows], units)


def of_columns(file: Path, unit: str | None) -> Sentences:
    """From a column file; its only unit is the document. Raises UserError that names a line."""
    found = columns.read(file)
    if unit is None:
        return Sentences(found.tokens, found.tags)
    if unit != DOCUMENT or not any(found.documents):
        raise UserError(
            f"the unit of a column file must be {DOCUMENT}, in files with {columns.DOCUMENT} lines, got {unit!r} for "
            f"{file.name}; drop --unit"
        )
    _, numbers = np.unique(found.documents, return_inverse=True)  # from 0 on, without documents that hold nothing
    return Sentences(found.tokens, found.tags, np.asarray(numbers, np.int64))


def of_table(table: Any, named: Sequence[str], unit: str | None, split: str) -> Sentences:
    """From a pandas table with a column of tokens and one of tags: lists, as long as each other.

    named: what whole numbers among the tags stand for. Raises UserError that names a row, counted from 1.
    """
    tokens, tags = _column(table, TOKENS, split), _column(table, TAGS, split)
    if unit is not None and unit not in table.columns:
        raise UserError(f"the unit must be a column of {split}, got none named {unit!r}; pass --unit COLUMN")
    found: list[list[str]] = []
    for row, (words, marks) in enumerate(zip(tokens, tags, strict=True), 1):
        where = f"row {row} of {split}"
        if not _is_list(words) or not _is_list(marks) or not all(isinstance(word, str) for word in words):
            raise UserError(f"tokens and tags must be lists, tokens of texts, got others in {where}; mend the data")
        if len(words) != len(marks):
            raise UserError(
                f"a sentence must have as many tags as tokens, got {len(marks)} for {len(words)} in {where}; "
                "mend the data"
            )
        found.append([_name(mark, named, where) for mark in marks])
    return Sentences([list(words) for words in tokens], found, None if unit is None else numbered(table[unit]))


def names_of(file: Path) -> tuple[str, ...]:
    """The names of the tags in a parquet file's metadata, as `datasets` writes them; none where it says nothing."""
    import pyarrow.parquet as pq

    about = (pq.read_schema(file).metadata or {}).get(b"huggingface")
    features = json.loads(about).get("info", {}).get("features", {}) if about else {}
    for column in TAGS:
        found = features.get(column)
        named = (found.get("feature") or {}).get("names") if isinstance(found, dict) else None
        if named:
            return tuple(named)
    return ()


def _column(table: Any, names: Sequence[str], split: str) -> Any:
    for name in names:
        if name in table.columns:
            return table[name]
    raise UserError(f"{split} must have a column {' or '.join(names)}, got none; rename the column")


def _is_list(cell: Any) -> bool:
    return isinstance(cell, (list, tuple, np.ndarray))


def _name(mark: Any, named: Sequence[str], where: str) -> str:
    """A tag's name, of a name or a number."""
    if isinstance(mark, (int, np.integer)) and not isinstance(mark, bool):
        if not named:
            raise UserError(f"tags must be names, or numbers that the file names, got others in {where}; map them")
        if not 0 <= mark < len(named):
            raise UserError(f"tags must be numbers from 0 to {len(named) - 1}, got another in {where}; mend the data")
        mark = named[int(mark)]
    if not isinstance(mark, str) or not is_tag(mark):
        raise UserError(f"tags must be O, B-TYPE or I-TYPE, got another in {where}; convert the tags")
    return mark
