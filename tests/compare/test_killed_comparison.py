"""kill -9 in the midst of a comparison, again and again: no cell is lost, none is charged twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpft.compare.folder import ComparisonFolder

POINTS = [
    "after reserve",
    "after noise",
    "mid-backward",
    "before settle",
    "after reserve",
    "half a save",
    "after settle",
]
CELLS = 2
Kill = Callable[..., dict[str, Any]]


@pytest.fixture
def kill(tiny_bert: Path, glue_folder: Callable[..., Path], tmp_path: Path) -> Kill:
    """Compare in the driver, killed at each of `points`; what became of releases and reservations."""

    def run(points: list[str], seconds: float = 0.0) -> dict[str, Any]:
        to, ledger = tmp_path / "comparison", tmp_path / "ledger.sqlite"
        (tmp_path / "releases").touch()
        compare = [
            "compare", "--methods", "bitfit", "--epsilons", "8", "--seeds", str(CELLS), "--delta", "1e-4",
            "--task", "glue/sst2", "--data", str(glue_folder()), "--model", str(tiny_bert), "--batch-size", "40",
            "--epochs", "0.5", "--max-length", "16", "--precision", "fp32", "--to", str(to), "--ledger", str(ledger),
            "--yes",
        ]  # fmt: skip
        asked = {"compare": compare, "plan": [0.1, 5, 8.0, 1e-4], "ledger": str(ledger), "points": points,
                 "releases": str(tmp_path / "releases"), "seconds": seconds}  # fmt: skip
        driver = [sys.executable, "-m", "tests.compare.killing_cells", json.dumps(asked)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            driver, capture_output=True, text=True, timeout=3500, env=env, check=False, cwd=Path(__file__).parents[2]
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert len(list((to / "runs").glob("*/result.json"))) == len(ComparisonFolder(to).cells()) == CELLS
        assert len(list((to / "runs").iterdir())) == CELLS
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


def assert_each_charged_once(found: dict[str, Any]) -> None:
    assert found["twice"] == [], "a step was released by two processes"
    assert [(run["charged"], run["planned"], run["settled"]) for run in found["runs"]] == [(5, 5, True)] * CELLS


@pytest.mark.timeout(900)
def test_killed_at_each_named_point_every_cell_is_finished_and_charged_once(kill: Kill) -> None:
    """Catches: a cell that is trained anew after its reservation, and one whose run is repeated once it is done."""
    found = kill(POINTS)
    assert found["killed"] == len(POINTS)
    assert_each_charged_once(found)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_random_moments_every_cell_is_finished_and_charged_once(kill: Kill) -> None:
    found = kill(["random"] * 30, 4.0)
    assert found["killed"] > 5
    assert_each_charged_once(found)
