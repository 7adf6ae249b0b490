"""Canaries in training: coins that decide, a rate that does not know them, and nothing that leaves with them."""

from __future__ import annotations

import dataclasses
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpft import Budget, Machine, Spec, resume, train
from dpft.audit import membership
from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.exports import export
from dpft.objectives.classification import Classification
from dpft.progress import Progress
from dpft.runs import canary_rows
from dpft.runs.canary_rows import CanaryRows
from dpft.runs.folder import Run
from dpft.training import loop

FP32 = Machine(device="cpu", precision="fp32")
CANARIES = 40


@pytest.fixture
def spec(tiny_bert: Path, glue_folder: Callable[..., Path]) -> Spec:
    return Spec(
        task="glue/sst2", data=str(glue_folder(train=80, validation=20)), model=str(tiny_bert), method="slash",
        options={"dim": 16}, budget=Budget(8.0, 1e-3), batch_size=30, epochs=3, learning_rate=0.1, max_length=32,
        canaries=CANARIES,
    )  # fmt: skip


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The rows that go into micro-batches while training."""
    rows: list[np.ndarray] = []
    shipped = loop.microbatches

    def listening(data: Any, drawn: np.ndarray, *more: Any) -> Any:
        rows.append(drawn)
        return shipped(data, drawn, *more)

    monkeypatch.setattr(loop, "microbatches", listening)
    return rows


def canaries_of(spec: Spec) -> Examples:
    found = canary_rows.canaries(spec, Classification(), ("0", "1"))
    assert found is not None
    return found.rows


def trained(spec: Spec, folder: Path) -> Run:
    return Run.open(train(spec, runs=folder / "runs", ledger=folder / "l", machine=FP32).path)


def test_a_canary_whose_coin_fell_the_other_way_is_never_trained_on(
    spec: Spec, tmp_path: Path, seen: list[np.ndarray]
) -> None:
    # Catches coins that are tossed and not heeded, and canaries that are all left out.
    run = trained(spec, tmp_path)
    truth = canary_rows.included_canaries(run, Classification(), ("0", "1"))
    assert truth is not None
    drawn = np.unique(np.concatenate(seen))
    canaries = drawn[drawn >= 80] - 80
    assert truth.included[canaries].all()
    assert len(canaries) > 0.5 * truth.included.sum()
    assert 0 < truth.included.sum() < CANARIES


def test_the_rate_is_of_the_whole_population_whatever_the_coins_say(spec: Spec, tmp_path: Path) -> None:
    # Catches a rate over the included rows, which would tell how many there are.
    runs = [trained(dataclasses.replace(spec, epochs=0.5), tmp_path / name) for name in "ab"]
    assert [run.plan.rate for run in runs] == [30 / (80 + CANARIES)] * 2
    assert runs[0].plan == runs[1].plan
    assert all((run.read_json("privacy") or {})["units"] == 80 + CANARIES for run in runs)


def test_the_coins_lie_in_private_for_the_owner_alone(spec: Spec, tmp_path: Path) -> None:
    run = trained(dataclasses.replace(spec, epochs=0.5), tmp_path)
    coins = run.path / "private" / "canaries.json"
    assert stat.S_IMODE(coins.stat().st_mode) == 0o600
    assert stat.S_IMODE(coins.parent.stat().st_mode) == 0o700
    assert "included" not in (run.path / "privacy.json").read_text()


def test_the_card_says_that_canaries_were_planted_and_no_export_is_made(spec: Spec, tmp_path: Path) -> None:
    run = trained(dataclasses.replace(spec, epochs=0.5), tmp_path)
    assert str(CANARIES) in (run.read_json("privacy") or {})["canaries"]
    with pytest.raises(UserError, match="no canaries"):
        export(run.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Stop(Progress):
    def stepped(self, done: int, epsilon: float | None) -> None:
        if done == 2:
            raise KeyboardInterrupt


def test_a_resumed_run_keeps_its_coins_and_does_not_toss_new_ones(spec: Spec, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(spec, runs=tmp_path / "runs", ledger=tmp_path / "l", machine=FP32, progress=Stop())
    (path,) = (tmp_path / "runs").iterdir()
    coins = path / "private" / "canaries.json"
    before = coins.read_bytes()
    coins.unlink()
    with pytest.raises(UserError, match="resumes with their coins"):
        resume(path, machine=FP32)
    coins.write_bytes(before)
    resume(path, machine=FP32)
    assert coins.read_bytes() == before


def test_of_two_processes_that_toss_coins_both_go_on_with_the_first_ones(tmp_path: Path) -> None:
    """Catches: coins that overwrite those another process already trains by, so that an audit asks about others."""
    path = tmp_path / "private" / "canaries.json"
    canary_rows._toss_once(path, b"first")
    canary_rows._toss_once(path, b"second")
    assert path.read_bytes() == b"first"
    assert [file.name for file in path.parent.iterdir()] == ["canaries.json"]
    assert path.stat().st_mode & 0o077 == 0


def test_canaries_are_public_and_distinct_and_half_of_them_are_mislabelled_messages(spec: Spec) -> None:
    one, again = canaries_of(spec), canaries_of(spec)
    assert list(one.texts) == list(again.texts)
    assert len(set(one.texts)) == CANARIES
    assert list(canaries_of(dataclasses.replace(spec, seed=1)).texts) != list(one.texts)


@pytest.mark.parametrize("count", [-1, 3, 7, 1.5, True])
def test_a_number_of_canaries_that_proves_nothing_is_refused(spec: Spec, count: Any) -> None:
    with pytest.raises(UserError, match="canaries must be"):
        dataclasses.replace(spec, canaries=count)


def test_a_task_with_scores_takes_no_canaries(spec: Spec, glue_folder: Callable[..., Path], tmp_path: Path) -> None:
    scored = dataclasses.replace(spec, task="glue/stsb", data=str(glue_folder("stsb", train=80, validation=20)))
    with pytest.raises(UserError, match="canaries need a task with one label a row"):
        train(scored, runs=tmp_path / "runs", ledger=tmp_path / "l", machine=FP32)


def test_damaged_coins_are_refused_in_one_line(spec: Spec, tmp_path: Path) -> None:
    run = trained(dataclasses.replace(spec, epochs=0.5), tmp_path)
    for content in ("", "{}", json.dumps({"included": [True]})):
        (run.path / "private" / "canaries.json").write_text(content)
        with pytest.raises(UserError, match="restore"):
            canary_rows.included_canaries(run, Classification(), ("0", "1"))


# What is made of scores.


def test_figures_are_those_of_a_sorted_list() -> None:
    # 200 others: at 1 % two may be called members, at 0.1 % none, and the latter is said to be beyond resolution.
    members = np.repeat([True, False], 200)
    scores = np.concatenate([np.arange(200) + 100.5, np.arange(200.0)])
    found = {check.name: check for check in membership.figures("s", scores, members)}
    assert found["AUC, s"].value == pytest.approx(1 - 100 * 99 / 2 / 200**2, abs=0.003)
    assert found["TPR at FPR 1.0%, s"].value == pytest.approx((scores[:200] > 197).mean())
    assert found["TPR at FPR 0.1%, s"].value == pytest.approx((scores[:200] > 199).mean())
    assert "not resolved" in found["TPR at FPR 0.1%, s"].about
    assert found["TPR at FPR 1.0%, s"].about == ""


def test_exposure_is_the_log_of_the_rank_among_what_was_left_out() -> None:
    included = np.array([True, True, *[False] * 7])
    scores = np.array([9.0, 0.5, *range(7)])
    with_canary_rows = CanaryRows(Examples([""] * 9, None, np.zeros(9, np.int64)), np.ones(9, bool), included)
    found = {check.name: check.value for check in membership.exposure(scores, with_canary_rows)}
    assert found["largest exposure"] == 3.0  # first of 8
    assert found["mean exposure of random strings"] == pytest.approx((3 + 3 - np.log2(7)) / 2)


@pytest.mark.usefixtures("drawn_alike")
def test_without_noise_the_canaries_are_found_out(spec: Spec, tmp_path: Path) -> None:
    # Catches scores of the wrong sign and truth in the wrong order: either would give an AUC of a half or below.
    from dpft.inference.trained_model import load

    bare = dataclasses.replace(
        spec, budget=None, method="full", options={}, epochs=45, learning_rate=0.003, schedule="constant", canaries=80
    )
    run = trained(bare, tmp_path)
    found = {check.name: check.value for check in membership.checks(load(run.path, machine=FP32), 0.05)}
    assert found["AUC, loss beside the untrained model's"] > 0.7
