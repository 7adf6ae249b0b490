"""A plan declares rate, steps, noise and divisor once, refuses what contradicts itself, and keeps its budget."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from dpft.errors import UserError
from dpft.privacy.accounting.accountants import CLOSED_FORM, PRV, epsilon_upper
from dpft.privacy.mechanism.plan import Plan, make_plan
from dpft.spec import Budget, Spec, canonical_json

BUDGET = Budget(8.0, 1e-5)
PRIVATE = Plan(0.1, 50, 0.9, 1.0, 200, BUDGET, 7.9, PRV)
OPEN = Plan(0.1, 50, 0.0, None, 200, None, None, None)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPFT_CACHE", str(tmp_path))


def spec(**changes: Any) -> Spec:
    return Spec(**{"batch_size": 200, "epochs": 5.0, "budget": BUDGET, **changes})


def test_a_private_plan_keeps_its_budget_by_the_bound_it_names() -> None:
    plan = make_plan(spec(clip=0.7), 2000)
    assert (plan.rate, plan.steps, plan.expected_batch, plan.clip) == (0.1, 50, 200, 0.7)
    assert (plan.epsilon_upper, plan.accountant) == epsilon_upper(plan.noise, 0.1, 50, 1e-5)
    assert plan.epsilon_upper is not None
    assert 0.99 * 8.0 < plan.epsilon_upper <= 8.0


def test_a_plan_without_a_budget_has_no_noise_and_the_same_sampling() -> None:
    plan = make_plan(spec(budget=None), 2000)
    assert plan == Plan(0.1, 50, 0.0, None, 200, None, None, None)


@pytest.mark.parametrize(
    ("epochs", "examples", "batch_size", "steps"),
    [
        (5.0, 20000, 2000, 50),
        (0.1, 30000, 3000, 1),
        (1.1, 3000, 300, 11),  # 1.1 * 3000 is 3300.0000000000005: 12 steps in floats
        (2.2, 1500, 100, 33),
        (20.0, 67349, 2048, 658),  # floor gives 657, an epoch's floor 640
        (1e-5, 2000, 200, 1),
        (1.0, 2001, 200, 11),
    ],
)
def test_steps_are_the_exact_ceiling(epochs: float, examples: int, batch_size: int, steps: int) -> None:
    assert make_plan(spec(epochs=epochs, batch_size=batch_size, budget=None), examples).steps == steps


def test_rate_and_divisor_are_the_declared_batch_not_a_loaders() -> None:
    """1 / len(loader) turns 2048 into 2014 here, and into another rate and divisor."""
    plan = make_plan(spec(batch_size=2048, budget=None), 104743)
    assert plan.rate == 2048 / 104743
    assert plan.expected_batch == 2048


def test_a_full_batch_is_planned_by_the_closed_form() -> None:
    plan = make_plan(spec(batch_size=500), 500)
    assert (plan.rate, plan.steps, plan.accountant) == (1.0, 5, CLOSED_FORM)


def test_a_batch_of_one_example_is_planned() -> None:
    assert make_plan(spec(batch_size=1, epochs=1.0, budget=None), 10).steps == 10


@pytest.mark.parametrize(
    ("changes", "examples", "says"),
    [
        ({}, 0, r"examples must be a whole number above 0, got 0; give"),
        ({}, -5, r"examples must be .* got -5; give"),
        ({}, 199, r"batch-size must be at most the 199 examples, got 200; pass --batch-size"),
        ({"budget": Budget(8.0, 0.001)}, 2000, r"delta must be below 1/examples = 0.0005, got 0.001; pass --delta"),
        ({"budget": Budget(8.0, 0.0005)}, 2000, r"delta must be below 1/examples = 0.0005, got 0.0005; pass"),
        ({"budget": Budget(1e-9, 1e-5)}, 2000, r"epsilon must be reachable .* got 1e-09 .*; pass a larger"),
    ],
)  # fmt: skip
def test_make_plan_refuses_in_one_line(changes: dict[str, Any], examples: int, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        make_plan(spec(**changes), examples)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("plan", [PRIVATE, OPEN])
def test_a_plan_survives_its_file(plan: Plan) -> None:
    assert Plan.from_json(json.loads(canonical_json(plan.to_json()))) == plan


@pytest.mark.parametrize(
    ("field", "value"),
    [("rate", v) for v in (0.0, -0.1, 1.1, math.nan, "0.1", None, True)]
    + [("steps", v) for v in (0, -1, 2.5, "50", None, True)]
    + [("noise", v) for v in (0.0, -1.0, math.nan, math.inf, None, "1")]
    + [("clip", v) for v in (0.0, -1.0, math.nan, math.inf, None, "1")]
    + [("expected_batch", v) for v in (0, 1.5, None)]
    + [("epsilon_upper", v) for v in (0.0, -1.0, math.nan, math.inf, 8.1, None, "1")]
    + [("accountant", v) for v in ("", None, 3)]
    + [("budget", v) for v in (None, 8.0, {"epsilon": 8.0})],
)
def test_a_file_with_a_bad_value_is_refused(field: str, value: object) -> None:
    """Among them: a budget without noise, and noise without a budget (a run that would call itself private)."""
    with pytest.raises(UserError):
        Plan.from_json({**PRIVATE.to_json(), field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("noise", 0.5), ("clip", 1.0), ("epsilon_upper", 1.0), ("accountant", PRV)]
)
def test_a_plan_that_is_not_private_claims_nothing(field: str, value: Any) -> None:
    with pytest.raises(UserError, match="without a budget"):
        dataclasses.replace(OPEN, **{field: value})


def test_a_file_with_other_fields_is_refused() -> None:
    values = PRIVATE.to_json()
    for bad in ({**values, "sigma": 1.0}, {k: v for k, v in values.items() if k != "noise"}, [values]):
        with pytest.raises(UserError, match="plan"):
            Plan.from_json(bad)  # type: ignore[arg-type]
