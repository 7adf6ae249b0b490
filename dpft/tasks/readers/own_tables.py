"""A user's own table: where its splits lie, one pass that checks every cell, and columns of texts read from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from dpft.data.label_column import LabelColumn, ticked
from dpft.data.units import kept, name_of
from dpft.errors import UserError
from dpft.spec import Spec
from dpft.tasks.readers import hub
from dpft.tasks.readers.source import TableSource
from dpft.tasks.readers.tables import FORMATS, in_folder, of_file

Check = Callable[[Any, str, str], None]  # of a cell, its column and its place: raises UserError


@dataclass(frozen=True)
class TextColumn(Sequence[str]):
    """A column of texts that is read from disk at each iteration. kept: the rows to yield, None for all. spelt: the
    text of a cell that is none."""

    source: TableSource
    column: str
    total: int
    kept: NDArray[np.int64] | None = None
    spelt: Callable[[Any], str] | None = None

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[str]:
        cells = (cell for _, (cell,) in self.source.rows((self.column,)))
        yielded = 0
        for cell in cells if self.kept is None else _chosen(cells, self.kept):
            yielded += 1
            yield cell if self.spelt is None else self.spelt(cell)
        if yielded != self.total:
            raise UserError(f"data must not change while they are read, got {yielded} rows; start again")

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        places = range(self.total)[at]
        if isinstance(places, int):
            return next(islice(iter(self), places, None))
        ahead = list(islice(iter(self), max(places, default=-1) + 1))
        return [ahead[place] for place in places]


def _chosen(cells: Iterable[Any], kept: NDArray[np.int64]) -> Iterator[Any]:
    wanted = iter(kept.tolist())
    following = next(wanted, None)
    for number, cell in enumerate(cells):
        if number == following:
            yield cell
            following = next(wanted, None)


def sources(spec: Spec) -> tuple[TableSource, TableSource | None]:
    """The tables of the training and the validation split of `spec.data`, the second None where there is none."""
    assert spec.data is not None
    path, apart = Path(spec.data), None if spec.validation is None else of_file(Path(spec.validation))
    if path.is_dir():
        train, beside = in_folder(path, "train"), in_folder(path, "validation")
        if train is None:
            raise UserError(
                f"a folder must hold train{', train'.join(FORMATS)}, got {spec.data!r} without; pass --data FILE"
            )
        return train, apart or beside
    if hub.is_id(spec.data):
        return hub.split(spec.data, "train"), apart or hub.validation(spec.data)
    return of_file(path), apart


def validation_source(path: Path) -> TableSource:
    """The table of a file, or of the validation split in a folder."""
    if not path.is_dir():
        return of_file(path)
    found = in_folder(path, "validation")
    if found is None:
        raise UserError(f"--data must hold a file named validation, got {str(path)!r} without; pass --data FILE")
    return found


def check_text(cell: Any, column: str, place: str) -> None:
    """Raise UserError for a cell that is no text."""
    if not isinstance(cell, str):
        raise UserError(
            f"each row must have a text, got none in the column {column!r} of {place}; fill it in or drop the row"
        )


@dataclass(frozen=True)
class CheckedTable:
    """The result of one pass through a table: the number of its rows, their labels, and the unit of each. Cells are
    checked on the way."""

    source: TableSource
    count: int
    labels: LabelColumn
    units: NDArray[np.int64] | None

    @classmethod
    def of(
        cls, source: TableSource, columns: Mapping[str, Check], labels: Sequence[str] = (), unit: str = Spec.unit
    ) -> CheckedTable:
        """columns: the checks of their cells. labels: the column of labels, or several of 0 and 1, one a label."""
        named = unit != Spec.unit
        found, numbers, count = LabelColumn(source.where), [], 0
        known: dict[str, int] = {}
        for number, cells in source.rows([*columns, *labels, *([unit] if named else [])]):
            count += 1
            for (column, check), cell in zip(columns.items(), cells, strict=False):
                check(cell, column, source.where(number))
            said = cells[len(columns) : len(columns) + len(labels)]
            if labels:
                found.add(number, said[0] if len(labels) == 1 else ticked(labels, said, source.where(number)))
            if named:
                numbers.append(known.setdefault(name_of(cells[-1], unit, source.where(number)), len(known)))
        if not count:
            raise UserError(f"data must hold at least one row, got none in {source.name}; pass another file")
        return cls(source, count, found, np.array(numbers, np.int64) if named else None)

    def rows(self, most: int | None) -> NDArray[np.int64] | None:
        """The numbers of the rows to use: the first `most` of each unit; None for all, without units."""
        return None if self.units is None else kept(self.units, most or 1)

    def texts(
        self, column: str, rows: NDArray[np.int64] | None, spelt: Callable[[Any], str] | None = None
    ) -> TextColumn:
        """A column of texts, at `rows`."""
        return TextColumn(self.source, column, self.count if rows is None else len(rows), rows, spelt)
