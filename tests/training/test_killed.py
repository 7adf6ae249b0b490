"""kill -9 at any moment: what is reported is never below what was released, and no plan is exceeded."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpft.privacy.accounting.accountants import epsilon_quick
from tests.killing import POINTS

Kill = Callable[[int, list[str]], list[dict[str, Any]]]


@pytest.fixture
def kill(tiny_bert: Path, glue_folder: Callable[..., Path], tmp_path: Path) -> Kill:
    """Train and resume in the driver, with so many kills; what the ledger and the releases were after each."""

    def run(kills: int, points: list[str]) -> list[dict[str, Any]]:
        ledger, runs = tmp_path / "ledger.sqlite", tmp_path / "runs"
        train = [
            "train", "--epsilon", "8", "--delta", "1e-4", "--task", "glue/sst2",
            "--data", str(glue_folder(train=200, validation=40)),
            "--model", str(tiny_bert), "--batch-size", "20", "--epochs", "2", "--max-length", "16", "--precision",
            "fp32", "--option", "dim=16", "--runs", str(runs), "--ledger", str(ledger),
        ]  # fmt: skip
        asked = {"train": train, "runs": str(runs), "ledger": str(ledger), "releases": str(tmp_path / "releases"),
                 "kills": kills, "points": points}  # fmt: skip
        driver = [sys.executable, str(Path(__file__).parents[1] / "killing.py"), json.dumps(asked)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(driver, capture_output=True, text=True, timeout=7000, env=env, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


@functools.cache
def epsilon(steps: int) -> float:
    return epsilon_quick(0.7, 0.1, steps, 1e-4)[0]


def assert_true_to_the_plan(report: list[dict[str, Any]]) -> None:
    """Each step's noise was drawn once, after its charge, within the plan; so the label's epsilon is the true one's."""
    for after in report:
        for run in after["runs"]:
            steps = [step for _, step in run["released"]]
            assert len(set(steps)) == len(steps), f"a step was released twice, killed at {after['point']}"
            assert len(steps) <= run["charged"] <= run["planned"], after["point"]
            assert run["charged"] <= run["counted"], "a run counts less than it was charged"
            if steps:
                assert epsilon(run["counted"]) >= epsilon(len(steps))


@pytest.mark.timeout(600)
def test_killed_at_each_named_point_a_run_reports_what_it_released(kill: Kill) -> None:
    """Catches: a charge after the noise ("after noise" shows a release uncharged); a resume that repeats a step."""
    report = kill(len(POINTS), list(POINTS))
    assert_true_to_the_plan(report)
    by_point = {one["point"]: one for one in report}
    assert all(by_point[point]["killed"] for point in POINTS)
    finished = [run for run in report[-1]["runs"] if run["settled"]]
    assert len(finished) >= len(POINTS)  # the one before them too; not the one that had reserved nothing
    assert all(run["charged"] == run["planned"] == 20 for run in finished)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_200_random_points_a_run_reports_what_it_released(kill: Kill) -> None:
    report = kill(200, ["random"])
    assert_true_to_the_plan(report)
    assert sum(one["killed"] for one in report) > 60  # the others finish first
