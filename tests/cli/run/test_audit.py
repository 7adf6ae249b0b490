"""dpft audit: a table, audit.json, a picture, and exit codes that a script can trust."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from dpft.reports.drawing.audit import draw

from tests.calling import Command

PNG = b"\x89PNG\r\n\x1a\n"

pytestmark = pytest.mark.usefixtures("audited_by_pld")


@pytest.fixture
def run(dpft: Command, tiny_bert: Path, glue_folder: Callable[..., Path]) -> Callable[..., Path]:
    """A factory: run("--canaries", 16) -> a small finished run."""
    data = glue_folder(train=80, validation=20)

    def make(*more: object) -> Path:
        budget = () if "--non-private" in more else ("--epsilon", 8, "--delta", "1e-3")
        code, out, err = dpft(
            "train", "--task", "glue/sst2", "--data", data, "--model", tiny_bert, "--batch-size", 40, "--epochs", 1,
            "--max-length", 32, "--precision", "fp32", "--option", "dim=16", *budget, *more, "--json",
        )  # fmt: skip
        assert code == 0, err
        return Path(json.loads(out)["path"]).resolve()

    return make


def test_a_sound_run_passes_with_a_table_and_files(dpft: Command, run: Callable[..., Path]) -> None:
    path = run("--canaries", 16)
    for _ in range(2):  # by chance an alarm in 10,000 audits
        code, out, err = dpft("audit", path, "--steps", 8, "--confidence", 0.9999)
        if code == 0:
            break
    assert code == 0, out + err
    assert "verdict     PASS" in out
    assert all(word in out for word in ("bookkeeping", "σ of z", "ε, full batches: Gaussian DP", "AUC, loss"))
    report = json.loads((path / "audit.json").read_text())
    assert report["verdict"] == "PASS"
    assert {check["level"] for check in report["checks"]} == {"bookkeeping", "path", "model"}
    assert (path / "audit.png").read_bytes().startswith(PNG)


def test_a_failed_check_is_exit_code_1_and_named(dpft: Command, run: Callable[..., Path]) -> None:
    path = run()
    card = json.loads((path / "privacy.json").read_text())
    (path / "privacy.json").write_text(json.dumps({**card, "adapter_sha256": "0" * 64}))
    code, out, _ = dpft("audit", path, "--level", "bookkeeping")
    assert code == 1
    assert "FAIL        adapter is the card's" in out
    assert json.loads((path / "audit.json").read_text())["verdict"] == "FAIL"


def test_what_concerns_people_stays_in_private(dpft: Command, run: Callable[..., Path]) -> None:
    # Without canaries the training rows themselves are compared: no un-noised figure of them may reach audit.json.
    path = run()
    code, out, _ = dpft("audit", path, "--level", "model")
    assert code == 0
    name = "AUC, training against validation rows"
    assert name in out
    assert name not in (path / "audit.json").read_text()
    assert name in (path / "private" / "audit.json").read_text()


def test_a_run_without_a_promise_is_audited_as_a_model_only(dpft: Command, run: Callable[..., Path]) -> None:
    path = run("--non-private", "--canaries", 16)
    code, _, err = dpft("audit", path)
    assert (code, err.count("\n")) == (2, 1)
    assert "NOT PRIVATE" in err
    assert dpft("audit", path, "--level", "model")[0] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere",), "run.json"),
        (("nowhere", "--level", "deep"), "--level"),
        (("nowhere", "--confidence", "1"), "--confidence"),
        (("nowhere", "--steps", "1"), "--steps"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(dpft: Command, words: tuple[str, ...], told: str) -> None:
    code, out, err = dpft("audit", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_an_unfinished_run_is_refused(dpft: Command, run: Callable[..., Path]) -> None:
    path = run()
    (path / "privacy.json").unlink()
    code, _, err = dpft("audit", path)
    assert code == 2
    assert "dpft resume" in err


def test_a_picture_is_drawn_of_values_beyond_all_limits() -> None:
    # Catches a drawing that needs a finite value, an audit without bounds, one without a claim.
    base = {"level": "path", "name": "x", "low": 0.0, "high": 1.0, "about": "", "passed": False}
    worst = [{**base, "kind": "statistic", "value": value} for value in ("inf", "nan", -1e30, 0.5)]
    for checks, claimed in ((worst, None), ([], 3.0), ([{**base, "kind": "bound", "value": "inf"}], 3.0)):
        audit = {"checks": checks, "verdict": "FAIL", "run": "r", "confidence": 0.99, "claimed_epsilon": claimed}
        assert draw(audit).startswith(PNG)
