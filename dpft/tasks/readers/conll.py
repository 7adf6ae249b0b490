"""CoNLL files: one token a line with its tag last, sentences separated by blank lines (CoNLL-2003, WNUT-17)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dpft.data.bio_tags import is_tag
from dpft.errors import UserError

DOCUMENT = "-DOCSTART-"


@dataclass
class ConllSentences:
    """The sentences of a file: tokens, tags, first line, and number of the document of each."""

    tokens: list[list[str]] = field(default_factory=list)
    tags: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)


def read(file: Path) -> ConllSentences:
    """Read the sentences of a UTF-8 file. Raises UserError that names a line, never its content.

    Columns are separated by tabs where a line has one, else by spaces; a line of spaces or tabs alone is blank.
    A line that starts with -DOCSTART- begins a document and is no token.
    """
    found, width, documents = ConllSentences(), 0, 0
    fresh = True
    for number, line in enumerate(_lines(file), 1):
        if not line.strip(" \t"):
            fresh = True
            continue
        parts = line.split("\t") if "\t" in line else [part for part in line.split(" ") if part]
        if parts[0] == DOCUMENT:
            documents, fresh = documents + 1, True
            continue
        width = width or len(parts)
        _check(parts, width, number, file.name)
        if fresh:
            found.tokens.append([])
            found.tags.append([])
            found.lines.append(number)
            found.documents.append(documents)
            fresh = False
        found.tokens[-1].append(parts[0])
        found.tags[-1].append(parts[-1])
    return found


def _lines(file: Path) -> list[str]:
    """Lines, split at line feeds alone: other Unicode separators may be inside a token."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"--data must be readable, got {error.strerror} at {file.name}; pass another") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{file.name} must be UTF-8, got other bytes in line {line}; convert it") from None
    return [line.removesuffix("\r") for line in text.split("\n")]


def _check(parts: list[str], width: int, number: int, name: str) -> None:
    where = f"line {number} of {name}"
    if any("\0" in part for part in parts):
        raise UserError(f"text must hold no NUL, got one in {where}; save the file as UTF-8 text")
    if len(parts) < 2 or not parts[0].strip(" ") or not parts[-1]:
        raise UserError(f"each line must hold a token and its tag, got one without in {where}; fix the file")
    if len(parts) != width:
        raise UserError(
            f"every line must have as many columns as the first, {width}, got {len(parts)} in {where}; fix the file"
        )
    if not is_tag(parts[-1]):
        raise UserError(f"the last column must be O, B-TYPE or I-TYPE, got another in {where}; convert the tags")
