"""The books of a run: sound ones pass, and each tampering is found by its own check."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dpft import Budget, Machine, Spec, train
from dpft.audit import bookkeeping
from dpft.audit.evidence.report import Check, Report
from dpft.privacy.ledger import Event, Ledger
from dpft.runs.folder import Run
from dpft.runs.ledger_charges import reservation_terms

Tamper = Callable[[Path], None]


@pytest.fixture
def run(tiny_bert: Path, glue_folder: Callable[..., Path], tmp_path: Path) -> Path:
    spec = Spec(
        task="glue/sst2", data=str(glue_folder(train=80, validation=20)), model=str(tiny_bert), method="slash",
        options={"dim": 16}, budget=Budget(8.0, 1e-3), batch_size=40, epochs=2, learning_rate=0.1, max_length=32,
    )  # fmt: skip
    machine = Machine(device="cpu", precision="fp32")
    return train(spec, runs=tmp_path / "runs", ledger=tmp_path / "book", machine=machine).path


def failed(path: Path) -> set[str]:
    run = Run.open(path)
    return {check.name for check in bookkeeping.checks(run, run.read_json("privacy") or {}) if not check.passed}


def edited(path: Path, name: str, **changes: object) -> None:
    file = path / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def weaker(path: Path) -> None:
    """Half the noise than was accounted, everywhere but in the ledger."""
    noise = json.loads((path / "plan.json").read_text())["noise"] / 2
    edited(path, "plan.json", noise=noise)
    edited(path, "privacy.json", noise=noise)


def cut_short(path: Path) -> None:
    """Another ledger in its place, that has heard of one step only."""
    run = Run.open(path)
    for file in run.ledger.parent.glob(f"{run.ledger.name}*"):
        file.unlink()
    asked = dataclasses.asdict(reservation_terms(run.plan, run.id))
    with Ledger(run.ledger) as book:
        book.reserve(asked.pop("run"), **asked)
        book.charge(Event(run.id, 0, run.plan.rate, run.plan.noise))


def swapped(path: Path) -> None:
    """One bit of the adapter."""
    content = bytearray((path / "adapter.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "adapter.safetensors").write_bytes(bytes(content))


def test_figures_about_people_are_not_printed() -> None:
    """Catches: an un-noised AUC on training rows in the logs of whoever runs audits by machine."""
    checks = (Check("model", "AUC, training against validation rows", 0.61803, None, None, "figure", private=True),)
    report = Report("a", 0.99, 8.0, 1e-3, checks, {})
    assert "0.61803" not in report.table()
    assert "in private/" in report.table()
    assert "0.61803" not in json.dumps(report.to_json())


def test_the_books_of_a_sound_run_pass_by_accountants_of_their_own_processes(run: Path) -> None:
    assert failed(run) == set()


@pytest.mark.usefixtures("audited_by_pld")
@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (lambda path: edited(path, "privacy.json", epsilon=2.0), {"card states the plan", "ε recomputed"}),
        (lambda path: edited(path, "privacy.json", steps_charged=3), {"card states the steps charged"}),
        (lambda path: edited(path, "privacy.json", statement="(0.1, 1e-9)-differential"), {"card states the plan"}),
        (lambda path: edited(path, "privacy.json", epsilon=float("inf")), {"card states the plan", "ε stated"}),
        (lambda path: edited(path, "privacy.json", units=90), {"sampling rate is batch size / units", "steps planned"}),
        (lambda path: edited(path, "privacy.json", ledger_head="0" * 63 + "1"), {"chain holds the card's head"}),
        (lambda path: edited(path, "privacy.json", units=None), {"card states the number of units"}),
        (
            lambda path: edited(path, "spec.json", clip=0.5),
            {"clipping norm is the spec's", "adapter is of the run's spec"},
        ),
        (weaker, {"reserved as planned", "ε recomputed"}),
        (cut_short, {"steps charged", "chain holds the run's first head", "closed to further charges"}),
        (swapped, {"adapter is the card's"}),
        (lambda path: Path(json.loads((path / "run.json").read_text())["ledger"]).unlink(), {"the ledger exists"}),
    ],
)
def test_each_tampering_is_found_by_its_own_check(run: Path, tamper: Tamper, found: set[str]) -> None:
    tamper(run)
    assert found <= failed(run)
    checks = bookkeeping.checks(Run.open(run), Run.open(run).read_json("privacy") or {})
    json.dumps(Report(run.name, 0.99, 8.0, 1e-3, tuple(checks), {}).to_json(), allow_nan=False)


@pytest.mark.usefixtures("audited_by_pld")
def test_an_untouched_run_fails_nothing_of_it(run: Path) -> None:
    assert failed(run) == set()
