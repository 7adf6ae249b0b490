"""Grids: which cells they make, and how they refuse."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpft.compare.cells import Cell
from dpft.compare.grid import grid_from, read
from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.inference.speed import Cost
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.randomness import Secret
from dpft.spec import Budget, Spec
from dpft.tasks import Task
from tests.compare.conftest import Cells


def test_a_grid_is_every_method_at_every_budget_with_every_seed(cells: Cells) -> None:
    found = cells(seeds=2)
    assert {(c.arm, c.epsilon, c.spec.seed) for c in found} == {
        (arm, epsilon, seed) for arm in ("slash", "linear") for epsilon in (8.0, None) for seed in (0, 1)
    }
    assert [c.spec.seed for c in found] == [0] * 4 + [1] * 4, "the first seed of all comes first"
    assert found[0].spec.budget == Budget(8.0, 1e-4)
    assert len({c.digest for c in found}) == len(found)


def test_an_arm_may_be_a_method_under_another_name_with_values_of_its_own(cells: Cells) -> None:
    small, large = cells(
        methods={"small": {"method": "slash", "options": {"dim": 4}, "learning_rate": 0.5},
                 "large": {"method": "slash", "options": {"dim": 64}}}, epsilons=[8],
    )  # fmt: skip
    assert (small.arm, small.spec.method, small.spec.options, small.spec.learning_rate) == (
        "small", "slash", {"dim": 4}, 0.5,
    )  # fmt: skip
    assert large.spec.learning_rate is None, "the recipe's, which its run will state"


def test_an_arm_may_have_a_rate_of_its_own_without_privacy(cells: Cells) -> None:
    arms = {"slash": {"options": {"dim": 12}, "learning_rate": 0.5, "non_private": {"learning_rate": 0.25}}, "lora": {}}
    rates = {(cell.arm, cell.epsilon): cell.spec.learning_rate for cell in cells(methods=arms)}
    assert (rates["slash", 8.0], rates["slash", None]) == (0.5, 0.25)
    assert (rates["lora", 8.0], rates["lora", None]) == (None, None)
    with pytest.raises(UserError, match=r"keys of methods\.slash\.non_private"):
        cells(methods={"slash": {"non_private": {"options": {}}}})


def test_a_head_rate_beside_a_method_that_is_all_head_is_refused_before_anything_is_planned(cells: Cells) -> None:
    with pytest.raises(UserError, match="trains more than the head, got 'linear'"):
        cells(methods=["slash", "linear"], head_learning_rate=0.1)
    every = cells(methods={"slash": {"head_learning_rate": 0.1}, "linear": {}}, epsilons=[8])
    assert {cell.arm: cell.spec.head_learning_rate for cell in every} == {"slash": 0.1, "linear": None}


def test_a_grid_may_be_of_ones_own_file(tiny_bert: Path, tmp_path: Path) -> None:
    """As for train, data without a task are files of one's own; what a score or label is may be stated."""
    (tmp_path / "notes.csv").write_text("note,kind\nwell,a\nill,b\n")
    rows = {"data": str(tmp_path / "notes.csv"), "text": "note", "label": "kind", "labels": ["a", "b"]}
    grid = {"methods": ["linear"], "epsilons": ["inf"], "model": str(tiny_bert), "clipping": "normalise", **rows}
    (cell,) = grid_from(grid).cells()
    assert (cell.spec.task, cell.spec.labels, cell.spec.clipping) == ("files", ("a", "b"), "normalise")
    assert Cell.from_json(cell.to_json()) == cell
    assert cell.title == "notes linear NOT PRIVATE seed 0"
    with pytest.raises(UserError, match=r"keys of methods\.linear"):
        grid_from({**grid, "methods": {"linear": {"label": "other"}}})


def test_a_cell_survives_json_and_keeps_its_digest(cells: Cells) -> None:
    for cell in cells():
        assert Cell.from_json(cell.to_json()) == cell
        assert Cell.from_json(cell.to_json()).digest == cell.digest


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"methods": ["slsh"]}, "did you mean slash"),
        ({"methods": []}, "methods must be names"),
        ({"methods": {"slash": {"dim": 3}}}, "keys of methods.slash"),
        ({"methods": {"slash": {"options": {"dims": 3}}}}, "options of slash"),
        ({"methods": {"slash": {"data": "x"}}}, "keys of methods.slash"),
        ({"epsilons": [0]}, "above 0, or inf"),
        ({"epsilons": [-1]}, "above 0, or inf"),
        ({"epsilons": ["many"]}, "above 0, or inf"),
        ({"epsilons": [math.nan]}, "above 0, or inf"),
        ({"epsilons": []}, "epsilons must be given"),
        ({"epsilons": [8, 8]}, "cells of a comparison must differ"),
        ({"seeds": 0}, "seeds must be a whole number above 0"),
        ({"seeds": True}, "seeds must be a whole number above 0"),
        ({"seeds": []}, "seeds must be a whole number above 0"),
        ({"delta": None}, "needs a delta"),
        ({"task": "glue/sst3"}, "did you mean"),
        ({"epoch": 3}, "a grid's keys are"),
        ({"batch_size": "many"}, "batch-size must be"),
        ({"clip": "2"}, "clip must be"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_in_one_line(cells: Cells, change: dict[str, Any], rule: str) -> None:
    with pytest.raises(UserError, match=rule) as caught:
        cells(**change)
    assert "\n" not in str(caught.value)


def test_a_grid_file_that_is_no_toml_is_refused(tmp_path: Any) -> None:
    (tmp_path / "grid.toml").write_text("methods = [")
    for name in ("grid.toml", "missing.toml"):
        with pytest.raises(UserError, match="TOML"):
            read(tmp_path / name)


@pytest.mark.parametrize("public", [None, "glue/rte"])
def test_trials_are_drawn_within_their_range_and_on_public_rows_alone_the_same_each_time(public: str | None) -> None:
    values = {"methods": {"slash": {"search": {"learning_rate": [0.01, 0.02], "clip": [1, 4]}}}, "epsilons": [3]}
    (cell,) = replace(grid_from({**values, "delta": 1e-6}), trials=400, search_on=public).cells()
    trials, secret = cell.trials, Secret()
    assert trials is not None

    def draws() -> list[Spec]:
        if public is None:
            return [trials.drawn_spec(cell.spec, secret) for _ in range(400)]
        return [trials.public_spec(cell.spec, number) for number in range(400)]

    drawn = draws()
    assert (drawn == draws()) is (public is not None)
    rates, clips = [s.learning_rate or 0 for s in drawn], [s.clip for s in drawn]
    assert 0.01 <= min(rates) < 0.012 < 0.018 < max(rates) <= 0.02
    assert 1 <= min(clips) < 1.5 < 3 < max(clips) <= 4
    plain = cell.spec.stating(learning_rate=1.0, clip=1.0)
    assert all(s.stating(learning_rate=1.0, clip=1.0) == plain for s in drawn)


def test_a_search_over_what_it_cannot_draw_is_refused() -> None:
    grid = grid_from({"methods": {"slash": {"search": {"dim": [1, 2]}}}, "epsilons": [3], "delta": 1e-6})
    with pytest.raises(UserError, match="draws learning_rate and clip"):
        replace(grid, trials=5).cells()


def test_the_seconds_of_a_plan_do_not_tell_how_many_rows_the_people_have() -> None:
    """Catches: `seconds` as an exact function of the number of rows, where only that of people is declared public."""
    cost = Cost(setup=1.0, step=2.0, row=0.1, judged=0.01, mebibytes=1.0, trained=10, frozen=True)
    plan = Plan(0.5, 4, 0.0, None, 2, None, None, None)
    texts, labels = ["a", "b", "c", "d"], np.array([0, 1, 0, 1])
    each = Examples(texts, None, labels)
    people = Examples(texts, None, labels, units=np.array([0, 0, 0, 1]))
    assert cost.seconds(plan, Task("t", each, each, ("no", "yes"), "accuracy")) == pytest.approx(9.88)
    assert cost.seconds(plan, Task("t", people, each, ("no", "yes"), "accuracy")) is None
