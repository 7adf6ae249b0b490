"""What a run found, as it is printed and written down."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dpft.errors import UserError
from dpft.runs.privacy_card import NOT_PRIVATE, rounded_up


@dataclass(frozen=True)
class Result:
    """What a run found. `value`: `metric` on the validation rows, without noise, None where there are none; `further`:
    what else was judged, by name; `classes`: of rows with one label of several, the largest class, macro-F1 and the
    recall of each class (`Objective.by_class`). `epsilon`: None if not private. `higher_is_better`: of the metric;
    written down where it is false.

    `seconds`, `memory_mib`: what training took, and the most that it held at once; None of a search's best run, whose
    number they would tell. Memory also where the system does not tell it, and in older runs.
    """

    path: Path
    metric: str
    value: float | None
    epsilon: float | None
    delta: float | None
    steps: int
    trainable: int
    seconds: int | None
    precision: str
    device: str
    memory_mib: int | None = None
    further: dict[str, float] = field(default_factory=dict)
    classes: dict[str, Any] = field(default_factory=dict)
    higher_is_better: bool = True

    @property
    def merit(self) -> float:
        """The value, turned where lower is better: of two runs the larger is the better. NaN where there is none."""
        value = math.nan if self.value is None else self.value
        return value if self.higher_is_better else -value

    def to_json(self) -> dict[str, Any]:
        """A plain dict, for result.json and --json; `from_json` reads it back."""
        privacy = NOT_PRIVATE if self.epsilon is None else f"({rounded_up(self.epsilon)}, {self.delta!r})"
        values = asdict(self)
        if self.higher_is_better:
            del values["higher_is_better"]
        return {**values, "path": str(self.path), "private": self.epsilon is not None, "privacy": privacy}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Result:
        """The Result that `to_json` wrote. Raises UserError where a field is missing."""
        optional = {f.name for f in fields(cls) if (f.default, f.default_factory) != (MISSING, MISSING)}
        wanted = [f.name for f in fields(cls) if f.name in values or f.name not in optional]
        try:
            return cls(**{name: values[name] for name in wanted})
        except KeyError as error:
            raise UserError(f"result.json must hold {error}, got none; restore the file") from None
