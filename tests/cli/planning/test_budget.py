"""dpft budget, asked each way round: what it answers can be asked back, and what does not fit is one line."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from dpft.privacy.accounting import segments
from dpft.privacy.accounting.accountants import CLOSED_FORM, PLD, PRV, RDP, epsilon_upper
from dpft.privacy.accounting.closed_form import epsilon_gaussian
from dpft.privacy.calibration.calibrate import calibrate
from dpft.privacy.mechanism.plan import Plan
from dpft.spec import Budget, Spec, steps_of
from tests.calling import Command

ASKED = ("--examples", 400, "--batch-size", 40, "--epsilon", 8, "--delta", 1e-4)
FIELDS = ("rate", "steps", "noise", "clip", "expected_batch", "budget", "epsilon_upper", "accountant", "clipping")


@pytest.fixture
def budget(dpft: Command) -> Command:
    """(exit code, stdout, stderr) of `dpft budget WORDS`."""
    return lambda *words: dpft("budget", *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--segment", "1:0.1"), "NOISE:RATE:STEPS"),
        (("--segment", "a:0.1:5", "--delta", 1e-5), "NOISE:RATE:STEPS"),
        (("--segment", "1:0.1:5.5", "--delta", 1e-5), "NOISE:RATE:STEPS"),
        (("--segment", "1:2:5", "--delta", 1e-5), "rate must lie"),
        (("--segment", "nan:0.1:5", "--delta", 1e-5), "noise must lie"),
        (("--segment", "1:0.1:5"), "pass --delta"),
        (("--segment", "1:0.1:5", "--delta", 2), "delta must lie"),
        (("--segment", "1:0.1:5", "--delta", 1e-5, "--epsilon", 3), "got --epsilon"),
        (("--segment", "1:0.1:5", "--delta", 1e-5, "--plot", "a.png", "--runs", 2), "got --runs, --plot"),
        ((*ASKED, "--noise", 1, "--epochs", 2), "got --epochs"),
        ((*ASKED, "--batch-sizes", "20,80"), "got --batch-size;"),
        ((*ASKED[:2], *ASKED[4:], "--batch-sizes", "20,many"), "batch sizes must be whole numbers"),
        ((*ASKED[:2], *ASKED[4:], "--batch-sizes", "20,800"), "batch-size"),
        ((*ASKED, "--noise", 1, "--runs", 2), "got --runs"),
        ((*ASKED, "--noise", 0), "noise must lie"),
        ((*ASKED, "--noise", "nan"), "noise must lie"),
        ((*ASKED, "--noise", 0.02), "one step must fit"),
        ((*ASKED, "--noise", 5, "--delta", 0.01), "delta must be below 1/examples"),
        ((*ASKED, "--noise", 5, "--batch-size", 500), "batch-size must be at most"),
        ((*ASKED, "--runs", 0), "runs must be"),
        ((*ASKED, "--runs", 10**9), "runs must be"),
        ((*ASKED, "--epochs", 1, "--plot", "a.svg"), "FILE.png"),
        ((*ASKED, "--epsilon", 1e300), "epsilon must be at most 10000, got 1e+300"),
        ((*ASKED, "--epochs", 1e300), ""),
        (("--examples", 400), "Try dpft"),
    ],
    ids=lambda words: " ".join(map(str, words)) if isinstance(words, tuple) else "",
)
def test_what_does_not_fit_is_one_line_and_exit_code_2(budget: Command, words: tuple[object, ...], said: str) -> None:
    code, out, err = budget(*words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("dpft: ")
    assert said in err
    assert not list(Path().iterdir())


def test_batches_are_laid_beside_each_other_at_one_budget(budget: Command) -> None:
    """Each row is what the same question alone would answer; more examples in a batch, less noise for each."""
    asked = (*ASKED[:2], *ASKED[4:], "--epochs", 2)
    plans = json.loads(budget(*asked, "--batch-sizes", "20, 80", "--json")[1])
    alone = json.loads(budget(*asked, "--batch-size", 80, "--json")[1])
    assert [plan["expected_batch"] for plan in plans] == [20, 80]
    assert (plans[1]["noise"], plans[1]["steps"]) == (alone["noise"], alone["steps"]) == (alone["noise"], 10)
    assert plans[1]["noise"] / 80 < plans[0]["noise"] / 20
    code, out, _ = budget(*asked, "--batch-sizes", "20,80")
    assert code == 0
    assert f"{plans[1]['noise']:.4f}      10" in out


def test_segments_give_epsilon_with_every_accountants_bound_name_and_version(
    budget: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = segments.epsilon_of
    once = functools.cache(lambda every: real(every, 1e-5, 250.0))  # no accountant is late on a busy machine
    monkeypatch.setattr(segments, "epsilon_of", lambda every, delta: once(tuple(every)))
    words = ("--segment", "0.9:0.05:100", "--segment", "4:1:2", "--delta", 1e-5)
    code, out, err = budget(*words, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert set(found["bounds"]) == {PRV, PLD, RDP, CLOSED_FORM}
    assert found["epsilon_upper"] == min(found["bounds"].values())
    assert found["segments"][1] == {"noise": 4.0, "rate": 1.0, "steps": 2}
    code, out, err = budget(*words)
    assert (code, err) == (0, "")
    assert all(name in out for name in found["bounds"])


def test_full_batches_are_the_closed_form(budget: Command) -> None:
    code, out, _ = budget("--segment", "4:1:2", "--segment", "4:1:7", "--delta", 1e-5, "--json")
    assert code == 0
    assert json.loads(out)["epsilon_upper"] == pytest.approx(epsilon_gaussian(4 / 3, 1, 1e-5))


def test_the_most_epochs_at_a_noise_are_within_the_budget_and_few_more_are_not(budget: Command) -> None:
    code, out, err = budget(*ASKED, "--noise", 1.2, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    plan = Plan.from_json({name: found[name] for name in FIELDS})
    assert (plan.noise, plan.rate) == (1.2, 0.1)
    assert plan.epsilon_upper == epsilon_upper(1.2, 0.1, plan.steps, 1e-4)[0]
    assert epsilon_upper(1.2, 0.1, plan.steps + max(1, plan.steps // 1000) + 1, 1e-4)[0] > 8
    assert steps_of(Spec(epochs=found["epochs"], batch_size=40), 400) <= plan.steps
    code, out, _ = budget(*ASKED, "--epochs", found["epochs"], "--json")
    assert json.loads(out)["noise"] == pytest.approx(1.2, rel=0.01)
    code, out, _ = budget(*ASKED, "--noise", 1.2)
    assert f"{plan.steps} at most" in out


def test_runs_share_a_budget_by_composition_and_each_ones_epsilon_gives_the_noise(budget: Command) -> None:
    """A sum of epsilons would give each run 8 / 4 = 2; composing, it gets more, and no run less noise."""
    code, out, err = budget(*ASKED, "--epochs", 2, "--runs", 4, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert set(found) == {*FIELDS, "runs", "epsilon_each"}
    assert (found["steps"], found["runs"]) == (20, 4)
    assert found["noise"] == calibrate(0.1, 80, Budget(8.0, 1e-4))[0]
    assert found["epsilon_each"] > 1.3 * 8 / 4
    each = calibrate(0.1, 20, Budget(found["epsilon_each"], 1e-4))[0]
    assert found["noise"] <= each <= 1.02 * found["noise"]
    assert epsilon_upper(each, 0.1, 80, 1e-4)[0] <= 8
    code, out, _ = budget(*ASKED, "--epochs", 2, "--runs", 4)
    assert f"--epsilon {found['epsilon_each']}" in out


@pytest.mark.parametrize(
    "words",
    [("--epochs", 1), ("--epochs", 1, "--runs", 2), pytest.param(("--noise", 3), marks=pytest.mark.slow)],
    ids=str,
)
def test_a_plot_is_drawn_where_it_is_asked_for_and_only_then(budget: Command, words: tuple[object, ...]) -> None:
    code, out, err = budget(*ASKED, *words, "--json")
    assert (code, err, list(Path().iterdir())) == (0, "", [])
    with_plot = budget(*ASKED, *words, "--json", "--plot", "b.png")
    assert with_plot == (0, out, "")
    assert [file.name for file in Path().iterdir()] == ["b.png"]
    assert Path("b.png").read_bytes()[:4] == b"\x89PNG"
