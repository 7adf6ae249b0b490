"""CSV and TSV with a header, read by the standard library."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dpft.errors import UserError
from dpft.tasks.readers.source import File, Row, places_of

_SWALLOWED = 20  # a quoted cell with this many lines is checked for swallowed rows


@dataclass(frozen=True)
class CsvFile(File):
    """CSV with a header (RFC 4180: a cell with commas, quotes or line ends is quoted).

    Rows are numbered by their first line.
    """

    delimiter: ClassVar[str] = ","
    quoting: ClassVar[Any] = csv.QUOTE_MINIMAL

    def _rows(self, columns: Sequence[str]) -> Iterator[Row]:
        records = self._records()
        _, header = next(records, (1, []))
        places, names = places_of(header, columns, self.name), [_plain(cell) for cell in header]
        for number, cells in records:
            if len(cells) != len(header):
                raise UserError(
                    f"each row must have as many cells as the header, {len(header)}, got {len(cells)} in "
                    f"{self.where(number)}; fix that row"
                )
            if all(_plain(cell) == name for cell, name in zip(cells, names, strict=True)):  # concatenated files
                raise UserError(
                    f"the header must stand in the first line alone, got it again in {self.where(number)}; "
                    "remove that line"
                )
            yield number, tuple(cells[place] for place in places)

    def _columns(self) -> Iterable[str]:
        return next(self._records(), (1, []))[1]

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Rows with their first line, the header first; empty lines are skipped."""
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
                f"characters, got another in the row that begins in {self.where(first)}; fix that row, or write the "
                "file as .jsonl or .parquet"
            ) from None

    def _plain(self) -> Iterator[str]:
        for number, line in self._lines():
            if "\0" in line:
                raise UserError(f"text must hold no NUL, got one in {self.where(number)}; save the file as UTF-8 text")
            yield line

    def _check_swallowed(self, cells: Sequence[str], width: int, first: int) -> None:
        """Raise UserError for a cell whose lines look like rows: a quote was opened and not closed."""
        for cell in cells:
            inner = cell.splitlines()[1:-1]
            alike = sum(line.count(self.delimiter) == width - 1 for line in inner)
            if len(inner) >= _SWALLOWED - 2 and alike > 0.9 * len(inner):
                raise UserError(
                    f"a quoted cell must end before the next row, got one with {len(inner) + 2} lines like rows in the "
                    f"row that begins in {self.where(first)}; close its quote, or write the file as .jsonl or .parquet"
                )


@dataclass(frozen=True)
class TsvFile(CsvFile):
    """TSV with a header: cells end at tabs, quotes have no meaning (IANA text/tab-separated-values)."""

    delimiter: ClassVar[str] = "\t"
    quoting: ClassVar[Any] = csv.QUOTE_NONE


def _plain(cell: str) -> str:
    """A cell normalised to compare headers: without surrounding blanks, byte-order mark, and case."""
    return cell.strip("\ufeff \t").casefold()
