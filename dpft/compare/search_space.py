"""The search space of a random search: hyper-parameters drawn independently of any data, from declared ranges.

On public rows they follow from a public seed. On protected rows each trial draws its own from secret randomness: a
sequence that anybody can compute would reveal the winner's number, and the bound of Papernot and Steinke (2022) needs
the number of trials kept secret.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from dpft.errors import UserError
from dpft.privacy.ledger.storage.entries import SECRET
from dpft.privacy.randomness import Secret
from dpft.spec import Spec

Range = tuple[float, float]
SPAN = 4.0  # factor each way around the method's default
_SALT = 20_220_701
_UNIT = 2.0**-53


@dataclass(frozen=True)
class SearchSpace:
    """`count` trials (expected, where charged), each with a learning rate and a clipping norm drawn log-uniformly.

    A range of None keeps the spec's value. `public`: the public task that is searched on, and `data`: where its files
    are; None: the search is on the cell's own rows, and charged.
    """

    count: int
    learning_rate: Range | None = None
    clip: Range | None = None
    public: str | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or isinstance(self.count, bool) or not 1 <= self.count <= 10_000:
            raise UserError(f"trials must be a whole number of 1 to 10000, got {self.count!r}; pass --trials")
        for name in ("learning_rate", "clip"):
            object.__setattr__(self, name, _range(name, getattr(self, name)))
        if not any(bounds and bounds[0] < bounds[1] for bounds in (self.learning_rate, self.clip)):
            raise UserError("a search must have something to draw, got ranges of one value; widen learning_rate")

    def public_spec(self, base: Spec, number: int) -> Spec:
        """Trial `number` (from 0) of `base` on public rows; the number decides its draws."""
        rng = Random(f"{_SALT}-0-{number}")
        return self._changed(base, rng.random(), rng.random())

    def drawn_spec(self, base: Spec, secret: Secret) -> Spec:
        """A trial of `base` on protected rows: independent uniform draws from `secret`."""
        rate, clip = (float(word >> 11) * _UNIT for word in secret.words(2).tolist())
        return self._changed(base, rate, clip)

    def _changed(self, base: Spec, rate: float, clip: float) -> Spec:
        """`base` at the quantiles `rate` and `clip`, from 0 to 1, of the log-uniform ranges."""
        changes: dict[str, Any] = {}
        for name, drawn in (("learning_rate", rate), ("clip", clip)):
            bounds = getattr(self, name)
            if bounds is not None and (name != "clip" or base.budget is not None):
                low, high = (math.log(bound) for bound in bounds)
                changes[name] = float(f"{math.exp(low + drawn * (high - low)):.4g}")
        return base.stating(**changes)

    def on_public(self, base: Spec) -> Spec:
        """`base` on the public rows. Each arm and budget is searched once for all seeds."""
        assert self.public is not None
        return dataclasses.replace(base, task=self.public, data=self.data, seed=0, unit=Spec.unit, max_per_unit=None)

    def to_json(self) -> dict[str, Any]:
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in vars(self).items()}
        return {**values, **({"seed": 0} if self.public else {"draws": SECRET})}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SearchSpace:
        """Inverse of `to_json`. Raises UserError for a charged search of an earlier version."""
        values = {**values}
        if values.get("public") is None and values.pop("draws", None) != SECRET:
            raise UserError(
                "a charged search must draw its trials in secret, got one that an earlier version planned, whose "
                "promise does not hold; plan it anew with another --to"
            )
        values.pop("seed", None)
        return cls(**values)


def search_space_around(
    spec: Spec, count: int, ranges: Mapping[str, Any], public: str | None, data: str | None
) -> SearchSpace:
    """The search space of a spec: `ranges` as declared, else learning rates from a quarter to four times the spec's."""
    unknown = sorted(set(ranges) - {"learning_rate", "clip"})
    if unknown:
        raise UserError(f"a search draws learning_rate and clip, got {', '.join(unknown)}; remove or rename them")
    assert spec.learning_rate is not None  # settled
    wide = (spec.learning_rate / SPAN, spec.learning_rate * SPAN)
    return SearchSpace(count, **{"learning_rate": wide, **ranges}, public=public, data=data)


def _range(name: str, value: Any) -> Range | None:
    if value is None:
        return None
    numbers = list(value) if isinstance(value, list | tuple) else []
    sound = len(numbers) == 2 and all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    if not sound or not 0 < numbers[0] <= numbers[1] < math.inf:
        raise UserError(f"a search's {name} must be [LOW, HIGH] above 0, got {value!r}; write {name} = [0.01, 0.1]")
    return float(numbers[0]), float(numbers[1])
