"""Rows of a user's own files, one after the other: CSV, TSV, JSON lines, Parquet. Nothing is held but the row at hand.

What cannot be read is refused with the number of its line or row, never with its text; nor is a header quoted, for
where a file has none it is somebody's row.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from dpft.spec import UserError

Row = tuple[int, tuple[Any, ...]]
_BATCH = 4096
_SWALLOWED = 20  # lines in one quoted cell, from which on it is looked at whether they are rows themselves


class Source(Protocol):
    """A table. `rows`: the number of each row and its values in the columns that are named, in the table's order."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str | None:
        """Names the content; None where that would cost more than it saves."""
        ...

    def columns(self) -> tuple[str, ...]:
        """All its columns."""
        ...

    def rows(self, columns: Sequence[str]) -> Iterator[Row]: ...
    def where(self, number: int) -> str:
        """Where a row stands, for a message."""
        ...


@dataclass(frozen=True)
class File:
    """One file, which must stay as it was when it was first looked at."""

    path: Path
    unit: ClassVar[str] = "line"

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def _stamp(self) -> tuple[int, int]:
        return self._now()

    @cached_property
    def digest(self) -> str:
        self._check()
        with open(self.path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        self._check()
        return found

    def where(self, number: int) -> str:
        return f"{self.unit} {number} of {self.name}"

    def columns(self) -> tuple[str, ...]:
        with self._readable():
            return tuple(self._columns())

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        with self._readable():
            self._check()
            yield from self._rows(columns)
            self._check()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"the data must be readable, got {error.strerror or type(error).__name__} at {str(self.path)!r}; "
                "pass another file"
            ) from None

    def _rows(self, columns: Sequence[str]) -> Iterator[Row]:
        raise NotImplementedError

    def _columns(self) -> Iterable[str]:
        raise NotImplementedError

    def _now(self) -> tuple[int, int]:
        found = os.stat(self.path)
        return found.st_size, found.st_mtime_ns

    def _check(self) -> None:
        if self._now() != self._stamp:
            raise UserError(f"data must stay as they are while they are read, got {self.name} changed; start again")

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Lines with their numbers. Raises UserError at the first that is not UTF-8."""
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise UserError(
                        f"text must be UTF-8, got other bytes in {self.where(number)}; save the file as UTF-8"
                    ) from None


@dataclass(frozen=True)
class Delimited(File):
    """CSV with a header (RFC 4180: a cell with commas, quotes or line ends stands in quotes).

    A row is numbered by the line that it begins in.
    """

    delimiter: ClassVar[str] = ","
    quoting: ClassVar[Any] = csv.QUOTE_MINIMAL

    def _rows(self, columns: Sequence[str]) -> Iterator[Row]:
        records = self._records()
        _, header = next(records, (1, []))
        places = _places(header, columns, self.name)
        for number, cells in records:
            if len(cells) != len(header):
                raise UserError(
                    f"each row must have as many cells as the header, {len(header)}, got {len(cells)} in "
                    f"{self.where(number)}; mend that row"
                )
            if cells == header:  # two files put behind each other
                raise UserError(
                    f"the header must stand in the first line alone, got it again in {self.where(number)}; "
                    "remove that line"
                )
            yield number, tuple(cells[place] for place in places)

    def _columns(self) -> Iterable[str]:
        return next(self._records(), (1, []))[1]

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Rows, the header first, with the line that each begins in; an empty line is none."""
        reader = csv.reader(self._plain(), delimiter=self.delimiter, quoting=self.quoting, strict=True)
        first, width = 1, 0
        try:
            for cells in reader:
                width = width or len(cells)
                if reader.line_num - first >= _SWALLOWED:
                    self._check_swallowed(cells, width, first)
                if cells:
                    yield first, cells
                first = reader.line_num + 1
        except csv.Error:
            raise UserError(
                f"cells must have closed quotes, no bare carriage return and at most {csv.field_size_limit()} "
                f"characters, got another in the row that begins in {self.where(first)}; mend that row, or write the "
                "file as .jsonl or .parquet"
            ) from None

    def _plain(self) -> Iterator[str]:
        for number, line in self._lines():
            if "\0" in line:
                raise UserError(f"text must hold no NUL, got one in {self.where(number)}; save the file as UTF-8 text")
            yield line

    def _check_swallowed(self, cells: Sequence[str], width: int, first: int) -> None:
        """Refuse a cell whose lines look like rows of the table: a quote was opened and not closed."""
        for cell in cells:
            inner = cell.splitlines()[1:-1]
            alike = sum(line.count(self.delimiter) == width - 1 for line in inner)
            if len(inner) >= _SWALLOWED - 2 and alike > 0.9 * len(inner):
                raise UserError(
                    f"a quoted cell must end before the next row, got one with {len(inner) + 2} lines like rows in the "
                    f"row that begins in {self.where(first)}; close its quote, or write the file as .jsonl or .parquet"
                )


@dataclass(frozen=True)
class Tabbed(Delimited):
    """TSV with a header: a cell ends at a tab, and quotes mean nothing (text/tab-separated-values of IANA)."""

    delimiter: ClassVar[str] = "\t"
    quoting: ClassVar[Any] = csv.QUOTE_NONE


@dataclass(frozen=True)
class JsonLines(File):
    """One JSON object a line."""

    def _rows(self, columns: Sequence[str]) -> Iterator[Row]:
        for number, line in self._lines():
            if not line.strip():
                continue
            values = self._object(number, line)
            missing = [name for name in columns if name not in values]
            if missing:
                raise UserError(
                    f"each row must have the columns {', '.join(columns)}, got none named {missing[0]!r} in "
                    f"{self.where(number)}; mend that row"
                )
            yield number, tuple(values[name] for name in columns)

    def _columns(self) -> Iterable[str]:
        return next((self._object(number, line) for number, line in self._lines() if line.strip()), {})

    def _object(self, number: int, line: str) -> dict[str, Any]:
        try:
            values = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise UserError(
                f"each line must be one JSON object, each key in it once, got another in {self.where(number)}; "
                "mend that line"
            )
        if "\\u" in line and not _is_unicode(values):
            raise UserError(
                f"text must be Unicode, got half of a surrogate pair in {self.where(number)}; mend that line"
            )
        return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found


def _is_unicode(values: dict[str, Any]) -> bool:
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Parquet(File):
    """Parquet; rows are counted from 1."""

    unit: ClassVar[str] = "row"

    def _rows(self, columns: Sequence[str]) -> Iterator[Row]:
        import pyarrow as pa
        from pyarrow import parquet

        number = 0
        try:
            with parquet.ParquetFile(self.path) as file:
                _places(file.schema_arrow.names, columns, self.name)
                for batch in file.iter_batches(batch_size=_BATCH, columns=list(dict.fromkeys(columns))):
                    for values in zip(*(self._values(batch, name, number) for name in columns), strict=True):
                        number += 1
                        yield number, values
        except (pa.ArrowException, OSError):
            raise self._unreadable() from None

    def _columns(self) -> Iterable[str]:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            found: Iterable[str] = parquet.read_schema(self.path).names
        except (pa.ArrowException, OSError):
            raise self._unreadable() from None
        return found

    def _unreadable(self) -> UserError:
        return UserError(f"{self.name} must be a parquet file, got one that cannot be read; write it again")

    def _values(self, batch: Any, name: str, before: int) -> list[Any]:
        """A column of a batch. Raises UserError that names the row of a value that Python has nothing like."""
        column = batch.column(name)
        try:
            found: list[Any] = column.to_pylist()
        except (ValueError, OverflowError):  # bytes that are no UTF-8, a time beyond the year 9999
            for number, value in enumerate(column, before + 1):
                try:
                    value.as_py()
                except (ValueError, OverflowError):
                    raise UserError(
                        f"the column {name!r} must hold UTF-8 text, numbers or lists of them, got another in "
                        f"{self.where(number)}; mend that row"
                    ) from None
            raise
        return found


@dataclass(frozen=True)
class Shards:
    """Several files that are one table; rows are counted from 1 through all of them."""

    files: tuple[File, ...]
    name: str

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256("".join(file.digest for file in self.files).encode()).hexdigest()

    def columns(self) -> tuple[str, ...]:
        return self.files[0].columns()

    def where(self, number: int) -> str:
        return f"row {number} of {self.name}"

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        number = 0
        for file in self.files:
            for _, values in file.rows(columns):
                number += 1
                yield number, values


FORMATS: dict[str, type[File]] = {".csv": Delimited, ".tsv": Tabbed, ".jsonl": JsonLines, ".parquet": Parquet}


def of_file(path: Path) -> File:
    """The reader of a file, by the end of its name. Raises UserError for another."""
    kind = FORMATS.get(path.suffix.lower())
    if kind is None or not path.is_file():
        found = f"{str(path)!r}, which is another" if path.exists() else f"{str(path)!r}, which is not there"
        raise UserError(f"data must be a file in {', '.join(FORMATS)}, got {found}; pass another")
    return kind(path)


def in_folder(folder: Path, split: str) -> Source | None:
    """SPLIT.csv, .tsv, .jsonl or .parquet of a folder, or SPLIT-*.parquet; None where there is none."""
    found = [folder / f"{split}{end}" for end in FORMATS if (folder / f"{split}{end}").is_file()]
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(f"a folder must hold one file of {split}, got {names}; pass --data FILE")
    if found:
        return of_file(found[0])
    shards = tuple(of_file(file) for file in sorted(folder.glob(f"{split}-*.parquet")))
    return Shards(shards, f"{split}-*.parquet") if shards else None


def _places(header: Sequence[str], columns: Sequence[str], name: str) -> list[int]:
    """Where the columns stand. A header is not quoted, and a name that it has twice is refused."""
    for column in columns:
        if list(header).count(column) != 1:
            found = f"none named {column!r} among {len(header)}" if column not in header else f"two named {column!r}"
            raise UserError(
                f"columns are named by the first row, got {found} in {name}; pass --text, --label and so on"
            )
    return [list(header).index(column) for column in columns]
