"""The interface of tables, and what all file formats share. Tables are read row by row, never held in memory.

Error messages give the number of a line or row, never its text. They do not quote a header either: in a file without a
header it is a row.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from dpft.errors import UserError

Row = tuple[int, tuple[Any, ...]]


class TableSource(Protocol):
    """A table. `rows` yields (row number, values of the given columns), in the table's order."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str | None:
        """A digest of the content; None where it would cost more than it saves."""
        ...

    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""
        ...

    def rows(self, columns: Sequence[str]) -> Iterator[Row]: ...
    def where(self, number: int) -> str:
        """The position of a row, for messages."""
        ...


@dataclass(frozen=True)
class File:
    """One file. It must not change after it was opened first."""

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
            raise UserError(f"data must not change while they are read, got {self.name} changed; start again")

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Numbered lines. Raises UserError at the first line that is not UTF-8."""
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise UserError(
                        f"text must be UTF-8, got other bytes in {self.where(number)}; save the file as UTF-8"
                    ) from None


def places_of(header: Sequence[str], columns: Sequence[str], name: str) -> list[int]:
    """Indices of the columns in the header. Raises UserError, which does not quote the header, for a duplicate name."""
    for column in columns:
        if list(header).count(column) != 1:
            found = f"none named {column!r} among {len(header)}" if column not in header else f"two named {column!r}"
            raise UserError(
                f"columns are named by the first row, got {found} in {name}; pass --text, --label and so on"
            )
    return [list(header).index(column) for column in columns]
