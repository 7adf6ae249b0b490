"""A random search's trials: hyper-parameters drawn independently of any data, from declared ranges."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from dpft.spec import Spec, UserError

Range = tuple[float, float]
SPAN = 4.0  # each way, around what a method takes by itself
_SALT = 20_220_701


@dataclass(frozen=True)
class Trials:
    """`count` trials (expected, where privacy is charged), each with a learning rate and a clip drawn log-uniformly.

    A range of None leaves the spec's own value. Numbers are drawn from `seed`, which is public: a trial's number and
    its seed decide it, so that a search can be taken up again. `public`: the task that is searched on, declared to be
    nobody's, and `data`, where it lies; None: on the cell's own rows, and charged.
    """

    count: int
    learning_rate: Range | None = None
    clip: Range | None = None
    seed: int = 0
    public: str | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or isinstance(self.count, bool) or not 1 <= self.count <= 10_000:
            raise UserError(f"trials must be a whole number of 1 to 10000, got {self.count!r}; pass --trials")
        for name in ("learning_rate", "clip"):
            object.__setattr__(self, name, _range(name, getattr(self, name)))
        if not any(bounds and bounds[0] < bounds[1] for bounds in (self.learning_rate, self.clip)):
            raise UserError("a search must have something to draw, got ranges of one value; widen learning_rate")

    def spec(self, base: Spec, number: int) -> Spec:
        """Trial `number` (from 0) of `base`."""
        rng = Random(f"{_SALT}-{self.seed}-{number}")
        changes: dict[str, Any] = {}
        for name in ("learning_rate", "clip"):
            drawn, bounds = rng.random(), getattr(self, name)
            if bounds is not None and (name != "clip" or base.budget is not None):
                low, high = (math.log(bound) for bound in bounds)
                changes[name] = float(f"{math.exp(low + drawn * (high - low)):.4g}")
        return dataclasses.replace(base, **changes)

    def on_public(self, base: Spec) -> Spec:
        """`base` on the public rows: each arm and budget is searched once for all seeds."""
        assert self.public is not None
        return dataclasses.replace(base, task=self.public, data=self.data, seed=0, unit=Spec.unit, max_per_unit=None)

    def to_json(self) -> dict[str, Any]:
        return {key: list(v) if isinstance(v, tuple) else v for key, v in vars(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Trials:
        return cls(**values)


def around(spec: Spec, count: int, ranges: Mapping[str, Any], public: str | None, data: str | None) -> Trials:
    """The trials of a spec: `ranges` as declared, else the learning rate from a quarter to four times the spec's."""
    unknown = sorted(set(ranges) - {"learning_rate", "clip"})
    if unknown:
        raise UserError(f"a search draws learning_rate and clip, got {', '.join(unknown)}; remove or rename them")
    assert spec.learning_rate is not None  # settled
    wide = (spec.learning_rate / SPAN, spec.learning_rate * SPAN)
    return Trials(count, **{"learning_rate": wide, **ranges}, seed=0 if public else spec.seed, public=public, data=data)


def _range(name: str, value: Any) -> Range | None:
    if value is None:
        return None
    numbers = list(value) if isinstance(value, list | tuple) else []
    sound = len(numbers) == 2 and all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    if not sound or not 0 < numbers[0] <= numbers[1] < math.inf:
        raise UserError(f"a search's {name} must be [LOW, HIGH] above 0, got {value!r}; write {name} = [0.01, 0.1]")
    return float(numbers[0]), float(numbers[1])
