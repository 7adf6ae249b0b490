"""Which rows belong to one unit: the person whose examples are protected together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.spec import UserError


@dataclass(frozen=True)
class Units:
    """The rows of each of U units: unit u's are `rows[starts[u] : starts[u + 1]]`. rows: (N,), starts: (U + 1,)."""

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def of(cls, numbers: NDArray[np.int64]) -> Units:
        """From each row's unit: (N,) numbers from 0 to U - 1, none left out."""
        order = np.argsort(numbers, kind="stable").astype(np.int64)
        return cls(order, np.searchsorted(numbers[order], np.arange(int(numbers.max(initial=-1)) + 2)))

    @property
    def owners(self) -> NDArray[np.int64]:
        """The unit of each of `rows`: (N,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def of_unit(self, unit: int) -> NDArray[np.int64]:
        return self.rows[self.starts[unit] : self.starts[unit + 1]]


def numbered(column: Any) -> NDArray[np.int64]:
    """Each row's unit as a number, in the order of first appearance. column: a pandas Series of names or numbers.

    Raises UserError where a row names none: it would belong to nobody, or to everybody.
    """
    import pandas as pd

    try:
        numbers, _ = pd.factorize(column)
    except TypeError:
        raise UserError(
            f"the column {column.name!r} must hold names or numbers, got lists or objects; pass another --unit"
        ) from None
    if (numbers < 0).any():
        row = int(np.flatnonzero(numbers < 0)[0])
        raise UserError(f"each row must name its {column.name!r}, got none in row {row}; fill it in or drop the row")
    return np.asarray(numbers, dtype=np.int64)


def kept(numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Row numbers (n,), rising: of each unit its first `most`, whatever other units hold."""
    units = Units.of(numbers)
    place = np.arange(len(numbers)) - np.repeat(units.starts[:-1], np.diff(units.starts))
    return np.sort(units.rows[place < most])
