"""A label column of the user's data, ready for an objective to parse: each distinct label with its first row."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.errors import UserError

MOST_NAMES = 100  # a column of more distinct labels, none of them stated, probably holds numbers or texts
SEPARATOR = "|"
_TICKS = {"0": False, "1": True, "false": False, "true": True, "no": False, "yes": True}
Cell = str | tuple[str, ...] | None


@dataclass
class LabelColumn:
    """The labels of one split. `cells`: each distinct label once; `firsts`: the row where each occurs first.

    A name is stripped, a whole number has no decimal point, a missing label is None. `where` turns a row number into
    text for messages.
    """

    where: Callable[[int], str]
    cells: list[Cell] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    rows: array[int] = field(default_factory=lambda: array("q"))
    _known: dict[tuple[str, Cell], int] = field(default_factory=dict)
    _types: set[str] = field(default_factory=set)

    def add(self, number: int, value: Any) -> None:
        """Add the label of row `number`. Raises UserError for a value that is no label, or of another type."""
        kind, cell = _read(value)
        place = self._known.get((kind, cell))
        if place is None:
            self._types.add(kind)
            if kind == "other" or len(self._types - {"none"}) > 1:
                raise self.refusal(
                    "labels must all be names, all finite numbers or all lists of names",
                    "another",
                    number,
                    "fix that row",
                )
            place = self._known[kind, cell] = len(self.cells)
            self.cells.append(cell)
            self.firsts.append(number)
        self.rows.append(place)

    def refusal(self, rule: str, found: str, number: int, remedy: str) -> UserError:
        return UserError(f"{rule}, got {found} in {self.where(number)}; {remedy}")

    def missing(self, number: int) -> UserError:
        return self.refusal("each row must have a label", "none", number, "fill it in or drop the row")

    def unknown(self, number: int, split: str, labels: Sequence[str]) -> UserError:
        rule = f"labels of {split} must be among the {len(labels)} known ones"
        return self.refusal(rule, "another", number, "fix that row, or state all labels: --labels")

    def each(self) -> Iterable[tuple[Cell, int]]:
        """(distinct cell, its first row) for each."""
        return zip(self.cells, self.firsts, strict=True)

    def spread(self, values: Sequence[Any], dtype: Any) -> NDArray[Any]:
        """The array (N, ...) over all rows, from one value for each distinct cell."""
        return np.asarray(values, dtype)[np.frombuffer(self.rows, np.int64)]


def _read(value: Any) -> tuple[str, Cell]:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "none", None
    if isinstance(value, Decimal):
        return _read(float(value))
    if isinstance(value, bool):
        return "name", _spelled(value)
    if isinstance(value, int):
        return "number", str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return "other", None
        return "number", str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, str):
        return ("name", value.strip()) if value.strip() else ("none", None)
    if isinstance(value, list) and all(isinstance(one, (str, int)) for one in value):
        return "list", tuple(sorted({_spelled(one) for one in value} - {""}))
    return "other", None


def _spelled(value: str | int) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def ticked(names: Sequence[str], cells: Sequence[Any], place: str) -> list[str]:
    """The labels of a row with one column a label. Raises UserError for a cell that is not 0 or 1."""
    found = []
    for name, value in zip(names, cells, strict=True):
        said = _TICKS.get(str(_read(value)[1]).lower())
        if said is None:
            raise UserError(
                f"a column for one label must hold 0 or 1, got another in the column {name!r} of {place}; fix that row"
            )
        if said:
            found.append(name)
    return found


def distinct(found: set[str]) -> tuple[str, ...]:
    """Unstated label names in numeric or alphabetical order. Raises UserError for too few or too many."""
    if not 2 <= len(found) <= MOST_NAMES:
        amount = "more" if len(found) > MOST_NAMES else f"{len(found)}"
        raise UserError(
            f"labels that are not stated must have 2 to {MOST_NAMES} different names, got {amount}; pass "
            "--labels a,b,c, --kind regression, or another --label"
        )
    if all(name.lstrip("-").isdecimal() for name in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def number(cell: Cell) -> float | None:
    """The cell as a finite number, None where it is none."""
    if not isinstance(cell, str):
        return None
    try:
        found = math.nan if "_" in cell else float(cell)  # Python reads 1_0 as 10
    except ValueError:
        return None
    return found if math.isfinite(found) else None
