"""A whole training on several ranks, by the command: they finish, die, hang, differ, and go on within the plan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Outcomes = dict[str, dict[str, Any]]

pytestmark = pytest.mark.timeout(900)

DEATHS = {"mid-backward": 1, "before charge": 0, "after charge": 0, "after noise": 0}  # where, and which rank


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture
def words(tiny_bert: Path, glue_folder: Callable[..., Path], home: Path) -> list[str]:
    """`dpft train` on a small task."""
    return [
        "train", "--epsilon", "8", "--delta", "1e-4", "--task", "glue/sst2",
        "--data", str(glue_folder(train=200, validation=40)),
        "--model", str(tiny_bert), "--batch-size", "20", "--epochs", "1", "--max-length", "16", "--precision",
        "fp32", "--option", "dim=16", "--runs", str(home / "runs"), "--ledger", str(home / "ledger.sqlite"),
    ]  # fmt: skip


@pytest.fixture
def outcomes(words: list[str], home: Path, request: pytest.FixtureRequest) -> Outcomes:
    """What came of every job, by its name. They run once, one after the other, for all tests."""
    kept = home / "outcomes.json"
    if not kept.exists():
        jobs = _jobs(words)
        asked = {"ledger": str(home / "ledger.sqlite"), "runs": str(home / "runs"), "releases": str(home / "releases"),
                 "jobs": list(jobs.values())}  # fmt: skip
        (home / "runs").mkdir()
        driver = [sys.executable, "-m", "tests.together", json.dumps(asked)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(driver, cwd=ROOT, env=env, capture_output=True, text=True, timeout=880, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        kept.write_text(json.dumps(dict(zip(jobs, json.loads(done.stdout.splitlines()[-1]), strict=True))))
    found: Outcomes = json.loads(kept.read_text())
    return found


def _jobs(train: list[str]) -> dict[str, dict[str, Any]]:
    resume = ["resume", "RUN", "--precision", "fp32"]
    jobs: dict[str, dict[str, Any]] = {"whole": {"words": train, "ranks": 2}}
    jobs["has no data"] = {"words": train, "ranks": 2, "at": [1, "has no data", 0]}
    jobs["has other data"] = {"words": train, "ranks": 2, "at": [1, "has other data", 0]}
    jobs["restarted"] = {"words": train, "ranks": 2, "restarts": 1}
    jobs["bad flag"] = {"words": [*train, "--clip", "-1"], "ranks": 2}
    jobs["bad model"] = {"words": [*train, "--model", "/no/such/model"], "ranks": 2}
    for number, (moment, rank) in enumerate(DEATHS.items()):
        jobs[moment] = {"words": train, "ranks": 2, "at": [rank, moment, 3]}
        jobs[f"{moment}, resumed"] = {"words": resume, "ranks": (0, 3, 2, 2)[number]}
    jobs["hangs"] = {"words": train, "ranks": 2, "at": [1, "hangs", 3], "patience": 20}
    jobs["resumed once more"] = {"words": resume, "ranks": 2}
    jobs["finished"] = {"words": resume, "ranks": 2}
    return jobs


def lines(outcome: dict[str, Any]) -> list[str]:
    """What all ranks together said of a mistake."""
    return [line for said in outcome["stderr"] for line in said.splitlines() if line.startswith("dpft: ")]


def test_two_ranks_train_one_run_and_only_the_first_speaks(outcomes: Outcomes) -> None:
    whole = outcomes["whole"]
    assert whole["codes"] == [0, 0], whole["stderr"]
    (run,) = whole["runs"]
    assert run["charged"] == run["planned"] == 10
    assert run["settled"]
    assert "differential privacy" in whole["stdout"][0]
    assert whole["stdout"][1] == whole["stderr"][1] == ""


def test_noise_is_drawn_by_one_process_once_a_step(outcomes: Outcomes) -> None:
    (run,) = outcomes["whole"]["runs"]
    assert [step for _, step in run["released"]] == [str(step) for step in range(10)]
    assert len({process for process, _ in run["released"]}) == 1


@pytest.mark.parametrize("moment", DEATHS)
def test_where_a_rank_dies_the_others_stop_with_one_line_and_nothing_is_released(
    outcomes: Outcomes, moment: str
) -> None:
    """Catches a charge after the noise, a release without a charge, and ranks that wait for ever."""
    outcome, rank = outcomes[moment], DEATHS[moment]
    assert outcome["codes"][rank] == -9
    assert outcome["codes"][1 - rank] == 2, outcome["stderr"]
    assert len(lines(outcome)) == 1
    assert "dpft resume" in lines(outcome)[0]
    assert outcome["seconds"] < 60
    run = outcome["runs"][-1]
    released = {"after noise": 3}.get(moment, 2)
    assert len(run["released"]) == released
    assert run["charged"] == (2 if moment == "before charge" else 3)


@pytest.mark.parametrize("moment", DEATHS)
def test_a_training_that_lost_a_rank_goes_on_with_any_number_of_them_within_its_plan(
    outcomes: Outcomes, moment: str
) -> None:
    """Alone, with three ranks and with two."""
    outcome = outcomes[f"{moment}, resumed"]
    assert set(outcome["codes"]) == {0}, outcome["stderr"]
    run = outcome["runs"][-1]
    steps = [step for _, step in run["released"]]
    assert run["charged"] == run["planned"] == 10
    assert len(set(steps)) == len(steps), "a step was released twice"
    assert len(steps) == (10 if moment in ("before charge", "after noise") else 9)


def test_a_rank_that_hangs_is_not_waited_for_without_end(outcomes: Outcomes) -> None:
    outcome = outcomes["hangs"]
    assert outcome["codes"][0] == 2, outcome["stderr"]
    assert "fell silent" in lines(outcome)[0]
    run = outcome["runs"][-1]
    assert run["charged"] == len(run["released"]) + 1
    assert outcomes["resumed once more"]["runs"][-1]["charged"] == 10


def test_a_finished_run_is_left_as_it_is_on_all_ranks(outcomes: Outcomes) -> None:
    assert outcomes["finished"]["codes"] == [0, 0]
    assert outcomes["finished"]["runs"] == outcomes["resumed once more"]["runs"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("has no data", "locked file; unlock it (rank 1)"),
        ("has other data", "all ranks must have the same data, got another on rank 1"),
        ("restarted", "drop --max-restarts"),
        ("bad flag", "--clip"),
        ("bad model", "/no/such/model"),
    ],
)
def test_a_mistake_is_said_once_and_costs_nothing(outcomes: Outcomes, name: str, said: str) -> None:
    outcome = outcomes[name]
    assert outcome["codes"] == [2, 2], outcome["stderr"]
    (line,) = lines(outcome)
    assert said in line
    assert outcome["runs"] == outcomes["whole"]["runs"]  # nothing was reserved


@pytest.mark.parametrize("way", ["-m dpft", pytest.param("script", marks=pytest.mark.slow)])
def test_torchrun_starts_it(words: list[str], tmp_path: Path, way: str) -> None:
    program = ["-m", "dpft"] if way == "-m dpft" else [str(Path(sys.executable).with_name("dpft"))]
    if way == "script" and not Path(program[0]).exists():
        pytest.skip("needs the dpft command beside python; pip install .")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    given = [*words[: words.index("--runs")], "--runs", str(tmp_path / "runs"), "--json"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *program, *given], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["steps"] == 10
    assert len(list((tmp_path / "runs").iterdir())) == 1
