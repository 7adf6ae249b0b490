"""Units of privacy: all rows of one unit, such as a person, are protected together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.errors import UserError


@dataclass(frozen=True)
class Units:
    """The rows of each of U units: unit u's are `rows[starts[u] : starts[u + 1]]`. rows: (N,), starts: (U + 1,)."""

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def of(cls, numbers: NDArray[np.int64]) -> Units:
        """From the unit of each row: (N,) numbers from 0 to U - 1, each of which occurs."""
        order = np.argsort(numbers, kind="stable").astype(np.int64)
        return cls(order, np.searchsorted(numbers[order], np.arange(int(numbers.max(initial=-1)) + 2)))

    @property
    def owners(self) -> NDArray[np.int64]:
        """The unit of each of `rows`: (N,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def of_unit(self, unit: int) -> NDArray[np.int64]:
        return self.rows[self.starts[unit] : self.starts[unit + 1]]


def name_of(value: Any, column: str, place: str) -> str:
    """The normalised name of a unit, so that two spellings are one unit and share one budget.

    Raises UserError where a row has none: it would belong to no unit, or to all.
    """
    if isinstance(value, (float, np.floating)) and math.isfinite(value):
        value = int(value) if float(value).is_integer() else float(value)
    named = isinstance(value, (str, int, np.integer)) or (isinstance(value, float) and math.isfinite(value))
    found = str(value).strip() if named else ""
    if not found:
        raise UserError(
            f"each row must name its {column!r}, got no name or number in {place}; fill it in or drop the row"
        )
    return found


def numbered(values: Iterable[Any], column: str, where: Callable[[int], str]) -> NDArray[np.int64]:
    """The unit of each row as a number, in the order of first occurrence: (N,).

    `where` turns a row index from 0 into text for messages. Raises UserError as `name_of` does.
    """
    known: dict[str, int] = {}
    return np.array(
        [known.setdefault(name_of(value, column, where(row)), len(known)) for row, value in enumerate(values)], np.int64
    )


def kept(numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Row numbers (n,), ascending: the first `most` rows of each unit, independent of other units."""
    units = Units.of(numbers)
    place = np.arange(len(numbers)) - np.repeat(units.starts[:-1], np.diff(units.starts))
    return np.sort(units.rows[place < most])
