"""The result of a run, as printed and as written to result.json."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dpft.errors import UserError
from dpft.runs.privacy_card import NOT_PRIVATE, rounded_up


@dataclass(frozen=True)
class Result:
    """The result of a run.

    `value`: `metric` on the validation rows, computed without noise; None without validation rows. `further`: other
    metrics by name. `classes`: for single-label tasks, the largest class, macro-F1 and the recall of each class
    (`Objective.by_class`). `epsilon`, `delta`: None if not private. `trainable`: the number of trainable parameters.
    `higher_is_better`: of the metric; written only if false.

    `seconds`, `memory_mib`: duration and peak memory of training. None for the best run of a search, as they would
    reveal the number of the trial. `memory_mib` is also None if the system does not report it, and in older runs.
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
        """The value, negated if lower is better, so that a larger merit is always better. NaN without a value."""
        value = math.nan if self.value is None else self.value
        return value if self.higher_is_better else -value

    def to_json(self) -> dict[str, Any]:
        """A plain dict for result.json and --json, which `from_json` reads."""
        privacy = NOT_PRIVATE if self.epsilon is None else f"({rounded_up(self.epsilon)}, {self.delta!r})"
        values = asdict(self)
        if self.higher_is_better:
            del values["higher_is_better"]
        return {**values, "path": str(self.path), "private": self.epsilon is not None, "privacy": privacy}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Result:
        """The Result from what `to_json` wrote. Raises UserError if a field is missing."""
        optional = {f.name for f in fields(cls) if (f.default, f.default_factory) != (MISSING, MISSING)}
        wanted = [f.name for f in fields(cls) if f.name in values or f.name not in optional]
        try:
            return cls(**{name: values[name] for name in wanted})
        except KeyError as error:
            raise UserError(f"result.json must hold {error}, got none; restore the file") from None
