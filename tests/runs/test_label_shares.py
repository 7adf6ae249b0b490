"""The shares of control codes: one planned step, charged before it is seen, that no unit moves by more than one."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpft.data.examples import Examples
from dpft.privacy.ledger import Ledger
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.randomness import Secret
from dpft.runs import label_shares
from dpft.runs.folder import Run
from dpft.runs.label_shares import _votes, is_due, release
from dpft.spec import Budget, Spec

NAMES = ("a", "b", "c")
PLAN = Plan(0.5, 4, 2.0, 1.0, 500, Budget(1.0, 1e-9), 1.0, "none")


def _rows(labels: list[int], units: list[int] | None = None) -> Examples:
    texts = [str(number) for number in range(len(labels))]
    return Examples(texts, None, np.array(labels, np.int64), None if units is None else np.array(units, np.int64))


def _task(rows: Examples, names: tuple[str, ...] = NAMES, codes: bool = True) -> Any:
    return SimpleNamespace(train=rows, labels=names, objective=SimpleNamespace(has_control_codes=codes))


def _run(folder: Path) -> Run:
    return Run.create(folder, Spec(budget=PLAN.budget), PLAN, folder / "ledger.sqlite", lambda _id: "")


class Still(Secret):
    """Without noise, for oracles."""

    def normal(self, count: int) -> Any:
        return np.zeros(count)


class Fixed(Secret):
    def normal(self, count: int) -> Any:
        return np.arange(1.0, count + 1)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=40))
def test_no_unit_adds_more_than_norm_one_to_the_sum(pairs: list[tuple[int, int]]) -> None:
    # Injected bug: counting rows instead of averaging them in a unit, so that a unit of 32 rows weighs 32.
    units = np.unique([unit for unit, _ in pairs], return_inverse=True)[1].tolist()
    votes = _votes(_rows([label for _, label in pairs], units), 3)
    assert len(votes) == len(set(units))
    assert (np.linalg.norm(votes, axis=1) <= 1 + 1e-12).all()
    assert np.allclose(votes.sum(1), 1)


def test_the_votes_of_a_unit_are_those_of_its_own_rows() -> None:
    found = _votes(_rows([0, 1, 1, 2], [1, 0, 1, 1]), 3)
    assert np.allclose(found, [[0, 1, 0], [1 / 3, 1 / 3, 1 / 3]])


def test_the_step_is_charged_at_the_plans_rate_and_noise(tmp_path: Path) -> None:
    run = _run(tmp_path)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.reserve(run.id, rate=0.5, noise=2.0, steps=4, delta=1e-9, epsilon=1.0)
        release(run, _task(_rows([0] * 1000)), np.arange(500), ledger, Secret())
        assert ledger.charged(run.id) == 1
        assert ledger.next_step(run.id) == 1


def test_nothing_is_written_if_the_charge_fails(tmp_path: Path) -> None:
    # Injected bug: writing the shares first and charging afterwards.
    run = _run(tmp_path)
    with Ledger(tmp_path / "ledger.sqlite") as ledger, pytest.raises(Exception, match="reserv"):
        release(run, _task(_rows([0] * 1000)), np.arange(500), ledger, Secret())
    assert run.read_json(label_shares.FILE) is None


def test_the_shares_are_the_noisy_sum_over_the_declared_batch(tmp_path: Path) -> None:
    # Injected bugs: dividing by the number drawn; noise without the plan's multiplier.
    run = _run(tmp_path)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.reserve(run.id, rate=0.5, noise=2.0, steps=4, delta=1e-9, epsilon=1.0)
        release(run, _task(_rows([0] * 600 + [1] * 400)), np.arange(300, 800), ledger, Fixed())
    found = run.read_json(label_shares.FILE)
    raw = np.array([300 + 2.0, 200 + 4.0, 6.0])
    assert found == {"shares": dict(zip(NAMES, np.round(raw / raw.sum(), 4).tolist(), strict=True)), "private": True}


def test_noise_has_the_plans_deviation_in_units_of_one_vote(tmp_path: Path) -> None:
    # 400 releases of nothing but noise over an expected batch of 500. Injected bug: noise of a fixed deviation.
    raw: list[float] = []

    class Told(Secret):
        def normal(self, count: int) -> Any:
            drawn = super().normal(count)
            raw.extend(drawn.tolist())
            return drawn

    secret = Told()
    run = _run(tmp_path)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.reserve(run.id, rate=0.5, noise=2.0, steps=4, delta=1e-9, epsilon=1.0)
        release(run, _task(_rows([0] * 1000)), np.arange(500), ledger, secret)
    shares = (run.read_json(label_shares.FILE) or {})["shares"]
    expected = np.clip(np.array([500.0, 0, 0]) + 2.0 * np.array(raw), 0, None)
    assert np.allclose(list(shares.values()), expected / expected.sum(), atol=1e-4)


def test_an_empty_batch_is_a_release_too(tmp_path: Path) -> None:
    run = _run(tmp_path)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.reserve(run.id, rate=0.5, noise=2.0, steps=4, delta=1e-9, epsilon=1.0)
        release(run, _task(_rows([0, 1])), np.zeros(0, np.int64), ledger, Still())
    shares = (run.read_json(label_shares.FILE) or {})["shares"]
    assert math.isclose(sum(shares.values()), 1.0, abs_tol=1e-3)


def test_without_privacy_the_shares_are_exact_and_say_so(tmp_path: Path) -> None:
    run = _run(tmp_path)
    release(run, _task(_rows([0, 0, 0, 1])), np.zeros(0, np.int64), None, Secret())
    assert run.read_json(label_shares.FILE) == {"shares": {"a": 0.75, "b": 0.25, "c": 0.0}, "private": False}


def test_only_the_first_step_of_a_run_with_control_codes_releases_them() -> None:
    rows = _rows([0, 1])
    assert is_due(_task(rows), PLAN, 0)
    assert not is_due(_task(rows), PLAN, 1)  # a resumed run: the step was charged, and is not taken twice
    assert not is_due(_task(rows, codes=False), PLAN, 0)
    assert not is_due(_task(rows, names=("one",)), PLAN, 0)
