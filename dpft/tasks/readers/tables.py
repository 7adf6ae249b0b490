"""JSON lines, Parquet, several files as one table, and the choice of a reader by file name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from dpft.errors import UserError
from dpft.tasks.readers.csv import CsvFile, TsvFile
from dpft.tasks.readers.source import File, Row, TableSource, places_of

_BATCH = 4096


@dataclass(frozen=True)
class JsonLines(File):
    """JSON lines: one object a line."""

    def _rows(self, columns: Sequence[str]) -> Iterator[Row]:
        for number, line in self._lines():
            if not line.strip():
                continue
            values = self._object(number, line)
            missing = [name for name in columns if name not in values]
            if missing:
                raise UserError(
                    f"each row must have the columns {', '.join(columns)}, got none named {missing[0]!r} in "
                    f"{self.where(number)}; fix that row"
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
                "fix that line"
            )
        if "\\u" in line and not _is_unicode(values):
            raise UserError(
                f"text must be Unicode, got half of a surrogate pair in {self.where(number)}; fix that line"
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
                places_of(file.schema_arrow.names, columns, self.name)
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
        """A column of a batch. Raises UserError with the row of a value that cannot be converted to Python."""
        column = batch.column(name)
        try:
            found: list[Any] = column.to_pylist()
        except (ValueError, OverflowError):  # bytes that are not UTF-8, a time beyond the year 9999
            for number, value in enumerate(column, before + 1):
                try:
                    value.as_py()
                except (ValueError, OverflowError):
                    raise UserError(
                        f"the column {name!r} must hold UTF-8 text, numbers or lists of them, got another in "
                        f"{self.where(number)}; fix that row"
                    ) from None
            raise
        return found


@dataclass(frozen=True)
class Shards:
    """Several files as one table; rows are counted from 1 through all files."""

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


FORMATS: dict[str, type[File]] = {".csv": CsvFile, ".tsv": TsvFile, ".jsonl": JsonLines, ".parquet": Parquet}


def of_file(path: Path) -> File:
    """The reader of a file, by its suffix. Raises UserError for an unknown one."""
    kind = FORMATS.get(path.suffix.lower())
    if kind is None or not path.is_file():
        found = f"{str(path)!r}, which is another" if path.exists() else f"{str(path)!r}, which is not there"
        raise UserError(f"data must be a file in {', '.join(FORMATS)}, got {found}; pass another")
    return kind(path)


def in_folder(folder: Path, split: str) -> TableSource | None:
    """The table of a split in a folder: SPLIT.csv, .tsv, .jsonl or .parquet, or SPLIT-*.parquet; None without one."""
    found = [folder / f"{split}{end}" for end in FORMATS if (folder / f"{split}{end}").is_file()]
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(f"a folder must hold one file of {split}, got {names}; pass --data FILE")
    if found:
        return of_file(found[0])
    shards = tuple(of_file(file) for file in sorted(folder.glob(f"{split}-*.parquet")))
    return Shards(shards, f"{split}-*.parquet") if shards else None
