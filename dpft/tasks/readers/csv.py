"""CSV and TSV with a header, by the standard library's reader."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dpft.errors import UserError
from dpft.tasks.readers.source import File, Row, places_of

_SWALLOWED = 20  # lines in one quoted cell, from which on it is looked at whether they are rows themselves


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
        places, names = places_of(header, columns, self.name), [_plain(cell) for cell in header]
        for number, cells in records:
            if len(cells) != len(header):
                raise UserError(
                    f"each row must have as many cells as the header, {len(header)}, got {len(cells)} in "
                    f"{self.where(number)}; mend that row"
                )
            if all(_plain(cell) == name for cell, name in zip(cells, names, strict=True)):  # one file behind another
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


def _plain(cell: str) -> str:
    """A cell as headers are compared: without blanks around it, a byte-order mark, and case."""
    return cell.strip("\ufeff \t").casefold()
