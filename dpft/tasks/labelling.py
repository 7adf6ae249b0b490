"""A label column of one's own: which kind of answer it holds, by which names, and the array that training takes."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.answers import ANSWERS, CLASSES, Answer, Score
from dpft.spec import UserError
from dpft.tasks.source import Source

MOST_NAMES = 100  # a column of more different labels, none of which was stated, is rather a number or a text
SEPARATOR = "|"
MANY = "multi-label"
RULES = (
    f"lists, or names joined by {SEPARATOR}, are multi-label; numbers of which one has a fraction are regression; all "
    "else is classification"
)
_NOT_FINITE = ("nan", "inf", "infinity")
_TICKS = {"0": False, "1": True, "false": False, "true": True, "no": False, "yes": True}
Cell = str | tuple[str, ...] | None


@dataclass
class Column:
    """The labels of one split, each different one kept once: `cells`, the row it came up first, its kind of value.

    A name is stripped, a whole number has no point, a missing label is None.
    """

    source: Source
    cells: list[Cell] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    rows: array[int] = field(default_factory=lambda: array("q"))
    _known: dict[tuple[str, Cell], int] = field(default_factory=dict)
    _types: set[str] = field(default_factory=set)

    def add(self, number: int, value: Any) -> None:
        """The label of row `number`. Raises UserError for what no label is, and for one of another type."""
        kind, cell = _read(value)
        place = self._known.get((kind, cell))
        if place is None:
            self._types.add(kind)
            if kind == "other" or len(self._types - {"none"}) > 1:
                raise self.refusal(
                    "labels must all be names, all finite numbers or all lists of names",
                    "another",
                    number,
                    "mend that row",
                )
            place = self._known[kind, cell] = len(self.cells)
            self.cells.append(cell)
            self.firsts.append(number)
        self.rows.append(place)

    def refusal(self, rule: str, found: str, number: int, remedy: str) -> UserError:
        return UserError(f"{rule}, got {found} in {self.source.where(number)}; {remedy}")

    def spread(self, values: Sequence[Any], dtype: Any) -> NDArray[Any]:
        """What each different cell is worth, for every row: (N, ...)."""
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
    """Of a row with a column for each label, the labels that are its. Raises UserError for what is not 0 or 1."""
    found = []
    for name, value in zip(names, cells, strict=True):
        said = _TICKS.get(str(_read(value)[1]).lower())
        if said is None:
            raise UserError(
                f"a column for one label must hold 0 or 1, got another in the column {name!r} of {place}; mend that row"
            )
        if said:
            found.append(name)
    return found


def kind_of(column: Column) -> str:
    """By RULES, from the different labels alone. Raises UserError where a score stands beside what is none."""
    found = [cell for cell in column.cells if cell is not None]
    if any(isinstance(cell, tuple) or SEPARATOR in cell for cell in found):
        return MANY
    numbers = {cell: _number(cell) for cell in found if isinstance(cell, str)}
    odd = [cell for cell, number in numbers.items() if number is None]
    fractions = any(number is not None and not number.is_integer() for number in numbers.values())
    if odd and (
        fractions or (len(odd) < len(numbers) and all(cell.lower().lstrip("+-") in _NOT_FINITE for cell in odd))
    ):
        raise column.refusal(
            "labels must all be finite numbers where others are", "another", column.firsts[column.cells.index(odd[0])],
            "mend that row, or state what they are: --kind",
        )  # fmt: skip
    return "regression" if fractions else "classification"


def answer_of(kind: str) -> Answer:
    """The answer of a kind's name. Raises UserError for an unknown one."""
    kinds = [name for name, answer in ANSWERS.items() if not answer.spoken]
    if kind not in kinds:
        raise UserError(
            f"kind must be one of {', '.join(kinds)}, got {kind!r}; pass --kind, or --task ner/files to label words"
        )
    return ANSWERS[kind]


def scored(stated: tuple[str, ...] | None) -> Answer:
    """A score in the range that was stated, by its ends."""
    if stated is None:
        return Score()
    ends = [_number(end) for end in stated]
    if len(ends) != 2 or ends[0] is None or ends[1] is None or not ends[0] < ends[1] < 1e30:
        raise UserError(f"labels of a score are its lowest and highest, got {len(ends)} others; pass --labels 0,5")
    return Score(ends[0], ends[1], stated=True)


def names_in(column: Column, answer: Answer) -> tuple[str, ...]:
    """All names in the column, in the order of numbers or of letters; none for a score."""
    if not answer.named:
        return ()
    for cell, first in _each(column):
        if not cell and answer == CLASSES:
            raise _missing(column, first)
    found = {name for cell in column.cells for name in _names(cell, answer)}
    if not 2 <= len(found) <= MOST_NAMES:
        amount = "more" if len(found) > MOST_NAMES else f"{len(found)}"
        raise UserError(
            f"labels that are not stated must have 2 to {MOST_NAMES} different names, got {amount}; pass "
            "--labels a,b,c, --kind regression, or another --label"
        )
    if all(name.lstrip("-").isdecimal() for name in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def values(column: Column, answer: Answer, labels: tuple[str, ...], split: str) -> NDArray[Any]:
    """The column as `answer` takes it. Raises UserError at a label that is missing, unknown or no number."""
    if not answer.named:
        return column.spread([_score(column, answer, *each) for each in _each(column)], np.float32)
    places = {name: place for place, name in enumerate(labels)}
    found: list[Any] = []
    for cell, first in _each(column):
        names = _names(cell, answer)
        if not cell and answer == CLASSES:
            raise _missing(column, first)
        if any(name not in places for name in names):
            raise column.refusal(
                f"labels of {split} must be of the {len(labels)} that are known", "another", first,
                "mend that row, or state all: --labels",
            )  # fmt: skip
        found.append([places[name] for name in names])
    if answer == CLASSES:
        return column.spread([one for (one,) in found], np.int64)
    return column.spread([[float(i in own) for i in range(len(labels))] for own in found], np.float32)


def _each(column: Column) -> Iterable[tuple[Cell, int]]:
    return zip(column.cells, column.firsts, strict=True)


def _names(cell: Cell, answer: Answer) -> tuple[str, ...]:
    if cell is None:
        return ()
    if answer == CLASSES:
        return (SEPARATOR.join(cell),) if isinstance(cell, tuple) else (cell,)
    parts = cell if isinstance(cell, tuple) else cell.split(SEPARATOR)
    return tuple(part.strip() for part in parts if part.strip())


def _score(column: Column, answer: Answer, cell: Cell, first: int) -> float:
    if cell is None:
        raise _missing(column, first)
    number = _number(cell) if isinstance(cell, str) else None
    if number is None or not abs(number) < 1e30:
        raise column.refusal("a score must be a finite number", "another", first, "mend that row, or pass --kind")
    if isinstance(answer, Score) and answer.stated and not answer.low <= number <= answer.high:
        raise column.refusal(
            f"a score must lie from {answer.low:g} to {answer.high:g}, as was stated", "another", first,
            "mend that row, or state another range with --labels",
        )  # fmt: skip
    return number


def _missing(column: Column, first: int) -> UserError:
    return column.refusal("each row must have a label", "none", first, "fill it in or drop the row")


def _number(cell: str) -> float | None:
    try:
        found = math.nan if "_" in cell else float(cell)  # Python reads 1_0 as 10
    except ValueError:
        return None
    return found if math.isfinite(found) else None
