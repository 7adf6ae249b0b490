"""The plan of a run: the parameters of the mechanism, shared by sampler, noise and ledger."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from dpft.errors import UserError, shown
from dpft.privacy.calibration.calibrate import calibrate
from dpft.recipe import choose_schedule
from dpft.spec import Budget, Clipping, Spec, steps_of


@dataclass(frozen=True)
class Plan:
    """The parameters of the mechanism, fixed before the first step. Raises UserError if they contradict each other.

    rate: sampling rate: each unit enters each of the `steps` batches independently with this probability.
    noise: noise multiplier: the clipped sum gets Gaussian noise of deviation noise * clip. clip: clipping norm.
    expected_batch: the divisor of the noisy sum, whatever the size drawn.
    epsilon_upper: upper bound on epsilon at budget.delta after all steps, by `accountant`.
    clipping: `cut` or `normalise`; older plans have no such field, which means `cut`.
    budget: None for a run that is NOT PRIVATE, without noise and clipping.
    """

    rate: float
    steps: int
    noise: float
    clip: float | None
    expected_batch: int
    budget: Budget | None
    epsilon_upper: float | None
    accountant: str | None
    clipping: Clipping = "cut"

    def __post_init__(self) -> None:
        _require(_is_number(self.rate) and 0 < self.rate <= 1, "rate must lie in (0, 1]", self.rate)
        _require(_is_count(self.steps), "steps must be a whole number above 0", self.steps)
        _require(
            _is_count(self.expected_batch),
            "expected_batch must be a whole number above 0",
            self.expected_batch,
        )
        _require(self.clipping in get_args(Clipping), "clipping must be cut or normalise", self.clipping)
        _require(_is_number(self.noise) and self.noise >= 0, "noise must be a finite number, 0 or more", self.noise)
        if self.budget is None:
            self._check_not_private()
        else:
            self._check_private(self.budget)

    def _check_not_private(self) -> None:
        _require(self.noise == 0, "noise must be 0 without a budget", self.noise)
        for name in ("clip", "epsilon_upper", "accountant"):
            value = getattr(self, name)
            _require(value is None, f"{name} must be null without a budget", value)

    def _check_private(self, budget: Budget) -> None:
        _require(isinstance(budget, Budget), "budget must be null or a Budget", budget)
        _require(self.noise > 0, "noise must be above 0 with a budget", self.noise)
        clip, upper = self.clip, self.epsilon_upper
        _require(clip is not None and _is_number(clip) and clip > 0, "clip must be a finite number above 0", clip)
        _require(
            upper is not None and _is_number(upper) and 0 < upper <= budget.epsilon,
            f"epsilon_upper must lie above 0 and within the budget of {budget.epsilon!r}",
            upper,
        )
        named = isinstance(self.accountant, str) and self.accountant != ""
        _require(named, "accountant must be named with a budget", self.accountant)

    def to_json(self) -> dict[str, Any]:
        """A plain dict with a `budget` of {epsilon, delta} or None, which `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """The Plan from what `to_json` wrote. Raises UserError on an unknown, missing or malformed field."""
        known = [f.name for f in dataclasses.fields(cls)]
        _require(isinstance(values, Mapping), "a plan is a JSON object", values)
        values = {"clipping": "cut", **values}
        _require(set(values) == set(known), f"a plan's fields are {', '.join(known)}", sorted(values))
        budget = values["budget"]
        if budget is not None:
            sound = isinstance(budget, Mapping) and set(budget) == {"epsilon", "delta"}
            _require(sound, "budget must be null or {epsilon, delta}", budget)
            budget = Budget(**budget)
        return cls(**{**values, "budget": budget})


def make_plan(spec: Spec, examples: int) -> Plan:
    """The plan of `spec` on `examples` training examples (or units), with the smallest noise that its budget allows.

    Sampling rate = batch_size / examples; the steps draw each example `epochs` times in expectation. The recipe
    chooses what the spec leaves open. Raises UserError if batch size, delta or epsilon is out of reach.
    """
    _require(
        _is_count(examples),
        "examples must be a whole number above 0",
        examples,
        "give the task training data",
    )
    spec = choose_schedule(spec, examples).spec
    assert spec.batch_size is not None
    _require(
        spec.batch_size <= examples, f"batch-size must be at most the {examples} examples", spec.batch_size,
        "pass --batch-size",
    )  # fmt: skip
    rate = spec.batch_size / examples
    steps = steps_of(spec, examples)
    if spec.budget is None:
        return Plan(rate, steps, 0.0, None, spec.batch_size, None, None, None)
    _require(
        spec.budget.delta < 1 / examples, f"delta must be below 1/examples = {1 / examples:.2g}",
        spec.budget.delta, "pass --delta",
    )  # fmt: skip
    noise, epsilon_upper, accountant = calibrate(rate, steps, spec.budget)
    return Plan(
        rate, steps, noise, spec.clip, spec.batch_size, spec.budget, epsilon_upper, accountant, spec.clipping
    )  # fmt: skip


def _require(ok: bool, rule: str, found: object, remedy: str = "make the plan anew") -> None:
    if not ok:
        raise UserError(f"{rule}, got {shown(found)}; {remedy}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
