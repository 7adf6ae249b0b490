"""Searches: on public rows they are free; on the cell's own they cost what Papernot and Steinke say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpft.audit import bookkeeping
from dpft.compare import searching
from dpft.compare.cells import Cell
from dpft.compare.conduct import OneByOne, conduct
from dpft.compare.planning import outlook, plan_cell
from dpft.compare.trials import around
from dpft.compare.watch import Silent
from dpft.compare.work import Work
from dpft.privacy.calibrate import calibrate
from dpft.privacy.ledger import Ledger, Search
from dpft.privacy.ledger.spending import Spending
from dpft.privacy.search_budget import ACCOUNTANT, SHAPE, calibrate_search
from dpft.run import Run
from dpft.shelf import Kept
from dpft.spec import Budget, UserError
from dpft.trained import load
from dpft.training import train
from tests.compare.conftest import FP32, Cells, reserved


@pytest.fixture(autouse=True)
def k_is_three(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """K is 3 whenever it is drawn; how often it was is kept."""
    drawn: list[float] = []

    def draw(mean: float, shape: float, secret: object) -> int:
        drawn.append(mean)
        return 3

    monkeypatch.setattr(searching, "draw_runs", draw)
    return drawn


def failed(path: Path) -> set[str]:
    """What the audit of the books finds wrong."""
    run = Run.open(path)
    return {check.name for check in bookkeeping.checks(run, run.read_json("privacy") or {}) if not check.passed}


@pytest.fixture
def cell(cells: Cells) -> Cell:
    (found,) = cells(methods={"slash": {"options": {"dim": 12}}}, epsilons=[8])
    return replace(found, trials=around(found.spec, 4, {}, None, None))


def test_the_whole_search_stays_within_the_budget_and_wastes_little() -> None:
    """Oracle: the ledger's own bound of that search. Catches: noise that is calibrated for one run alone."""
    budget = Budget(6.7, 1e-5)
    noise, upper = calibrate_search(0.1, 20, budget, 5)
    assert noise > 1.2 * calibrate(0.1, 20, budget)[0]
    spent = Spending().plus(Search("s", 0.1, noise, 20, 5.0, SHAPE), "example")
    assert spent.composition(1e-5)[0] == pytest.approx(upper, rel=1e-6)
    assert upper <= budget.epsilon
    less = Spending().plus(Search("s", 0.1, 0.99 * noise, 20, 5.0, SHAPE), "example")
    assert less.composition(1e-5)[0] > budget.epsilon
    assert calibrate_search(0.1, 20, budget, 5) == (noise, pytest.approx(upper))  # from the cache, proven anew


def test_a_charged_search_shows_its_best_run_alone_under_the_label_of_all(
    cell: Cell, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: trials that are charged one by one, that stay in sight, the label of one run alone, and books that
    pass whatever the card says of the search.
    """
    values = iter([0.25, 0.75, 0.5, 0.5])  # of the second stage, the last
    monkeypatch.setattr("dpft.evaluate.score", lambda *_: next(values))
    (outcome,) = conduct([cell], work, OneByOne(), Silent())
    assert outcome.error is None
    assert outcome.result is not None
    assert outcome.result.value == 0.75
    (run,) = work.folder.runs.iterdir()
    assert not list((work.folder.path / "private").iterdir())
    assert isinstance(work.shelf, Kept)
    assert work.shelf.asked["token arrays"] == 0, "K can be told from how often a trial asked"
    (charged,) = reserved(Path(work.place.ledger))
    assert isinstance(charged.terms, Search)
    assert (charged.terms.mean, charged.terms.shape) == (4.0, SHAPE)
    card, plan = (json.loads((run / f"{name}.json").read_text()) for name in ("privacy", "plan"))
    assert card["epsilon"] == plan["epsilon_upper"] == outcome.result.epsilon <= 8
    assert card["noise"] == plan["noise"] == charged.terms.noise
    assert card["accountant"] == ACCOUNTANT
    assert card["tuning"]["charged"] is True
    assert card["population"]["composition"]["epsilon"] == pytest.approx(card["epsilon"], rel=1e-6)
    assert cell.trials is not None
    spec = json.loads((run / "spec.json").read_text())
    assert spec["learning_rate"] == cell.trials.spec(cell.spec, 1).learning_rate
    with Ledger(work.place.ledger) as book:
        book.verify(json.loads((run / "run.json").read_text())["ledger_head"], card["ledger_head"])
    load(run, machine=FP32).predict(["the film is good"])
    assert failed(run) == set()
    for name, changes, found in (
        ("privacy", {"tuning": {**card["tuning"], "mean": 3}}, {"search reserved as planned"}),
        ("privacy", {"tuning": {**card["tuning"], "mean": None}}, {"search reserved as planned", "ε recomputed"}),
        ("privacy", {"tuning": {"charged": False}}, {"reserved as planned", "steps charged"}),
        ("privacy", {"tuning": {**card["tuning"], "law": "poisson"}}, {"search reserved as planned"}),
        ("privacy", {"tuning": {**card["tuning"], "mean": 10**400}}, {"search reserved as planned"}),
        ("privacy", {"tuning": None}, {"reserved as planned"}),
        ("privacy", {"statement": "(0.1, 1e-9)-differential privacy"}, {"card states the plan"}),
        ("run", {"id": "0" * 32}, {"search reserved as planned"}),
        ("plan", {"noise": 1e-200}, {"search reserved as planned", "ε recomputed"}),
        ("privacy", {"epsilon": 2.0}, {"card states the plan", "ε recomputed"}),
        ("privacy", {"steps_charged": 1}, {"card states the steps charged"}),
        ("plan", {"noise": plan["noise"] / 2}, {"search reserved as planned", "card states the plan", "ε recomputed"}),
    ):
        sound = (run / f"{name}.json").read_text()
        (run / f"{name}.json").write_text(json.dumps({**json.loads(sound), **changes}))
        assert found <= failed(run), changes
        (run / f"{name}.json").write_text(sound)
    second = replace(cell.spec, start=str(run))
    with pytest.raises(UserError, match="must be in the same ledger"):
        train(second, runs=work.folder.path / "second", ledger=work.folder.path / "other", machine=FP32)
    again = train(second, runs=work.folder.path / "second", ledger=work.place.ledger, machine=FP32)
    begun = json.loads((again.path / "privacy.json").read_text())["start"]
    assert begun["same_population"] is True
    with Ledger(work.place.ledger) as book:
        book.reserve(Run.open(run).id, rate=0.5, noise=1.0, steps=1, delta=1e-5, epsilon=8.0)
    assert failed(run) == {"charges beside the search"}
    assert conduct([cell], work, OneByOne(), Silent())[0].how == "found"


def test_a_search_that_was_broken_off_goes_on_with_the_same_k(
    cell: Cell, work: Work, k_is_three: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a K that is drawn again, or a second search in the ledger, after a kill."""
    import dpft.compare.work as module

    real, calls = module.train, iter(range(99))

    def stops(*words: Any, **more: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(*words, **more)

    with monkeypatch.context() as patched:
        patched.setattr(module, "train", stops)
        with pytest.raises(KeyboardInterrupt):
            conduct([cell], work, OneByOne(), Silent())
    (outcome,) = conduct([cell], work, OneByOne(), Silent())
    assert outcome.error is None
    assert k_is_three == [4.0]
    assert len(reserved(Path(work.place.ledger))) == 1


def test_a_search_on_public_rows_is_not_charged_and_tunes_every_seed_alike(
    cells: Cells, work: Work, glue_folder: Callable[..., Path]
) -> None:
    public = str(glue_folder("sst2", seed=5))
    every = [
        replace(one, trials=around(one.spec, 2, {}, "glue/sst2", public))
        for one in cells(methods={"slash": {"options": {"dim": 12}}}, epsilons=[8], seeds=2)
    ]
    outcomes = conduct(every, work, OneByOne(), Silent())
    assert [one.error for one in outcomes] == [None, None]
    assert len(reserved(Path(work.place.ledger))) == 2
    runs = list(work.folder.runs.iterdir())
    rates = {json.loads((run / "spec.json").read_text())["learning_rate"] for run in runs}
    assert len(runs) == 2
    assert len(rates) == 1
    assert every[0].trials is not None
    assert rates <= {every[0].trials.spec(every[0].spec, n).learning_rate for n in range(2)}
    card = json.loads((runs[0] / "privacy.json").read_text())
    assert "declared public" in card["tuning"]["statement"]
    assert [one.how for one in conduct(every, work, OneByOne(), Silent())] == ["found", "found"]


def test_the_cells_own_rows_are_never_taken_for_public(cells: Cells, work: Work) -> None:
    """Catches: an uncharged search on the private rows under another name."""
    (one,) = cells(methods={"slash": {"options": {"dim": 12}}}, epsilons=[8])
    own = replace(one, trials=around(one.spec, 2, {}, "glue/sst2", one.spec.data))
    (outcome,) = conduct([own], work, OneByOne(), Silent())
    assert outcome.error is not None
    assert "must not see the cell's own" in outcome.error
    assert not Path(work.place.ledger).exists()


def test_a_search_is_planned_at_its_own_noise_and_charged_as_one(cell: Cell, work: Work) -> None:
    found = outlook([cell], work.place, {}, Kept(), Silent(), measured=False)
    alone = plan_cell(replace(cell, trials=None), 400)
    assert found.cells[0].plan.noise > 1.2 * alone.noise
    assert found.charges[0].epsilon == pytest.approx(found.cells[0].plan.epsilon_upper, rel=1e-6)


def test_a_search_without_anything_to_draw_is_refused(cell: Cell) -> None:
    with pytest.raises(UserError, match="something to draw"):
        around(cell.spec, 3, {"learning_rate": [0.1, 0.1]}, None, None)
    with pytest.raises(UserError, match="trials must be"):
        around(cell.spec, 0, {}, None, None)
