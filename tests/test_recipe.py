"""The recipe: what it chooses, that it keeps what is given, and that it looks at public numbers alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpft.errors import UserError
from dpft.privacy.mechanism.plan import make_plan
from dpft.recipe import (
    BATCHES,
    CLIP,
    DRIFT,
    LEAST_STEPS,
    MOST_EPOCHS,
    PROBE,
    STEPS,
    choose_rates,
    choose_schedule,
    learning_rates,
)
from dpft.runs.folder import Run
from dpft.spec import Budget, Machine, Spec, steps_of
from dpft.training.train import train

Folder = Callable[..., Path]
FP32 = Machine(device="cpu", precision="fp32")
PRIVATE = Spec(budget=Budget(3.0, 1e-9))
FREE = Spec()


@given(units=st.integers(8, 10_000_000), private=st.booleans())
def test_a_recipe_is_a_plan_whatever_the_number_of_units(units: int, private: bool) -> None:
    spec = choose_schedule(PRIVATE if private else FREE, units).spec
    assert spec.batch_size is not None
    assert spec.epochs is not None
    assert 1 <= spec.batch_size <= units
    assert 0 < spec.epochs <= MOST_EPOCHS
    assert choose_schedule(spec, units).spec == spec  # what is settled stays


@given(units=st.integers(2_600, 10_000_000))
def test_private_runs_have_as_many_steps_however_many_units_there_are(units: int) -> None:
    spec = choose_schedule(PRIVATE, units).spec
    assert abs(steps_of(spec, units) - STEPS) <= 0.01 * STEPS
    assert BATCHES[0] <= (spec.batch_size or 0) <= BATCHES[1]


@pytest.mark.parametrize("given", [{"batch_size": 100}, {"epochs": 7.0}, {"clip": 0.3}])
def test_what_is_given_stays(given: dict[str, Any]) -> None:
    found = choose_schedule(replace(PRIVATE, **given), 5000)
    assert {name: getattr(found.spec, name) for name in given} == given
    assert not any(reason.startswith(next(iter(given)).split("_")[0]) for reason in found.reasons)


def test_few_examples_train_where_a_fixed_batch_would_be_refused() -> None:
    # 2,048 was the batch of all data, and 2,000 rows with all defaults were refused.
    plan = make_plan(PRIVATE, 2000)
    assert plan.expected_batch <= 2000
    assert plan.steps >= 100


@pytest.mark.parametrize("units", [1, 7])
def test_too_few_examples_are_refused_in_one_line(units: int) -> None:
    with pytest.raises(UserError, match=f"8 examples or more, got {units}"):
        choose_schedule(PRIVATE, units)


@given(units=st.integers(100, 1_000_000), rows=st.floats(1e3, 1e8))
def test_a_time_is_kept(units: int, rows: float) -> None:
    # One second at `rows` units a second.
    spec = choose_schedule(PRIVATE, units, speed=rows, limit=1.0).spec
    steps = steps_of(spec, units)
    assert steps * (spec.batch_size or 0) <= rows * 1.001 + 1
    assert steps >= min(LEAST_STEPS, rows // 1)


def test_a_time_too_short_for_one_step_is_refused() -> None:
    with pytest.raises(UserError, match="enough for one step, got one for 50 of its 100 examples; pass a longer"):
        choose_schedule(replace(PRIVATE, batch_size=100), 1000, speed=50.0, limit=1.0)
    with pytest.raises(UserError, match="enough for one step"):
        choose_schedule(PRIVATE, 1000, speed=0.5, limit=1.0)


def test_epochs_beside_a_time_are_refused() -> None:
    with pytest.raises(UserError, match="a time limit decides the number of epochs, got 9"):
        choose_schedule(replace(PRIVATE, epochs=9.0), 1000, speed=50.0, limit=60.0)


@given(
    steps=st.integers(1, 100_000),
    sizes=st.lists(st.floats(1e-4, 10.0), min_size=1, max_size=20),
)
def test_noise_of_all_steps_moves_the_reading_by_the_declared_drift(steps: int, sizes: list[float]) -> None:
    # The oracle: independent tensors' drifts add in squares, and a tensor of tolerance t moves it by PROBE / t a unit.
    tolerances = {f"t{number}": size for number, size in enumerate(sizes)}
    spec = choose_rates(PRIVATE, steps, tolerances, drift=0.6).spec
    own = learning_rates(spec, tolerances)
    wander = math.sqrt(max(1.0, steps / 3))
    drift = math.sqrt(sum((own[name] * wander * PROBE / size) ** 2 for name, size in tolerances.items()))
    assert drift == pytest.approx(DRIFT, rel=0.02)


def test_a_more_sensitive_tensor_has_a_lower_rate_and_more_of_the_drift() -> None:
    spec = choose_rates(PRIVATE, 100, {"a": 0.01, "b": 1.0}, drift=0.6).spec
    own = learning_rates(spec, ["a", "b", "head.weight"])
    assert own["a"] < own["b"]
    assert own["a"] / 0.01 > own["b"] / 1.0
    assert own["head.weight"] == spec.head_learning_rate


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_a_given_rate_is_the_rate_of_all(rate: float) -> None:
    spec = choose_rates(replace(PRIVATE, learning_rate=rate), 100, {"a": 0.01, "b": 1.0}, drift=0.6).spec
    assert learning_rates(spec, ["a", "b", "head.weight"]) == {"a": rate, "b": rate, "head.weight": rate}


def test_the_rates_fall_with_the_root_of_the_steps() -> None:
    few, many = (choose_rates(PRIVATE, steps, {"a": 1.0}, drift=0.6).spec for steps in (300, 1200))
    assert (few.learning_rate or 0) / (many.learning_rate or 1) == pytest.approx(2, rel=0.01)


def test_a_run_keeps_what_the_recipe_chose_and_says_why(glue_folder: Folder, tiny_bert: Path, tmp_path: Path) -> None:
    base = Spec(task="glue/sst2", data=str(glue_folder()), model=str(tiny_bert), method="lora", epochs=0.5)
    spec = replace(base, budget=Budget(8.0, 1e-5), options={"rank": 2})
    path = train(spec, runs=tmp_path / "runs", machine=FP32).path
    kept = Run.open(path).spec
    assert None not in (kept.batch_size, kept.clip, kept.learning_rate, kept.head_learning_rate)
    assert kept.clip == CLIP
    assert kept.tensor_scales is not None
    assert len(set(kept.tensor_scales.values())) > 1
    why = json.loads((path / "recipe.json").read_text())["reasons"]
    assert [line.split(":")[0].split()[0] for line in why] == ["batch", "clip", "learning", "head's", "optimizer"]
    again = train(kept, runs=tmp_path / "again", machine=FP32).path
    assert Run.open(again).spec == kept


def test_the_same_public_numbers_give_the_same_recipe_whatever_the_rows(
    glue_folder: Folder, tiny_bert: Path, tmp_path: Path
) -> None:
    # Catches a recipe that looks at training rows: then it would have to be charged.
    base = Spec(task="glue/sst2", model=str(tiny_bert), method="lora", options={"rank": 2}, budget=Budget(8.0, 1e-5))
    first, other = (
        Run.open(train(replace(base, data=str(data), epochs=0.5), runs=tmp_path / str(number), machine=FP32).path).spec
        for number, data in enumerate((glue_folder(), glue_folder(seed=9)))
    )
    assert first.data != other.data
    assert replace(first, data=None) == replace(other, data=None)
