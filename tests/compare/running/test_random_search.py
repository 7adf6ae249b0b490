"""Searches: on public rows they are free; on the cell's own they cost what Papernot and Steinke say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from dpft.benchmarks.search_attack import Attack

from dpft.audit import bookkeeping
from dpft.compare.cells import Cell
from dpft.compare.events import SilentListener
from dpft.compare.folder import ComparisonFolder
from dpft.compare.planning import comparison_plan, plan_cell
from dpft.compare.running import random_search
from dpft.compare.running.run_cells import LocalExecutor, run_all_cells
from dpft.compare.running.work import Work
from dpft.compare.search_folder import SearchFolder
from dpft.compare.search_space import SearchSpace, search_space_around
from dpft.errors import UserError
from dpft.inference.trained_model import load
from dpft.machine.memo import CachingMemo
from dpft.objectives import Metric
from dpft.objectives.classification import Classification
from dpft.privacy.calibration.calibrate import calibrate
from dpft.privacy.calibration.search_noise import ACCOUNTANT, SHAPE, calibrate_search
from dpft.privacy.ledger import Ledger, Limit, Search
from dpft.privacy.ledger.composition import Spending
from dpft.privacy.ledger.export import lines, report
from dpft.runs.folder import Run
from dpft.spec import Budget
from dpft.training.train import train
from tests.compare.conftest import FP32, Cells, reserved


@pytest.fixture(autouse=True)
def k_is_three(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """K is 3 whenever it is drawn; how often it was is kept."""
    drawn: list[float] = []

    def draw(mean: float, shape: float, secret: object) -> int:
        drawn.append(mean)
        return 3

    monkeypatch.setattr(random_search, "draw_runs", draw)
    return drawn


@pytest.fixture
def lower_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if accuracy were an error."""
    monkeypatch.setattr(Classification, "metrics", (Metric("accuracy", higher_is_better=False),))


def failed(path: Path) -> set[str]:
    """What the audit of the books finds wrong."""
    run = Run.open(path)
    return {check.name for check in bookkeeping.checks(run, run.read_json("privacy") or {}) if not check.passed}


def other_people(folder: Path, *splits: str) -> str:
    """A task folder whose texts, or those of some splits, are like no other's."""
    for file in (folder / f"{split}.parquet" for split in splits or ("train", "validation")):
        rows = pd.read_parquet(file)
        rows.assign(sentence="elsewhere " + rows["sentence"]).to_parquet(file)
    return str(folder)


@pytest.fixture
def cell(cells: Cells) -> Cell:
    (found,) = cells(methods={"slash": {"options": {"dim": 12}, "learning_rate": 0.04}}, epsilons=[8])
    other_people(Path(str(found.spec.data)), "validation")
    return replace(found, trials=search_space_around(found.spec, 4, {}, None, None))


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


@pytest.mark.usefixtures("audited_by_pld")
def test_a_charged_search_shows_its_best_run_alone_under_the_label_of_all(
    cell: Cell, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: trials that are charged one by one, that stay in sight, the label of one run alone, and books that
    pass whatever the card says of the search.
    """
    values = iter([0.25, 0.75, 0.5, 0.5])  # of the second stage, the last
    monkeypatch.setattr("dpft.objectives.classification.measure", lambda *_: next(values))
    (outcome,) = run_all_cells([cell], work, LocalExecutor(), SilentListener())
    assert outcome.error is None
    assert outcome.result is not None
    assert outcome.result.value == 0.75
    (run,) = work.folder.runs.iterdir()
    assert not list((work.folder.path / "private").iterdir())
    assert isinstance(work.memo, CachingMemo)
    assert work.memo.asked["token arrays"] == 0, "K can be told from how often a trial asked"
    (charged,) = reserved(Path(work.place.ledger))
    assert isinstance(charged.terms, Search)
    assert (charged.terms.mean, charged.terms.shape) == (4.0, SHAPE)
    card, plan = (json.loads((run / f"{name}.json").read_text()) for name in ("privacy", "plan"))
    assert card["epsilon"] == plan["epsilon_upper"] == outcome.result.epsilon <= 8
    assert card["noise"] == plan["noise"] == charged.terms.noise
    assert card["accountant"] == ACCOUNTANT
    assert card["tuning"]["charged"] is True
    assert card["population"]["composition"]["epsilon"] == pytest.approx(card["epsilon"], rel=1e-6)
    result = json.loads((run / "result.json").read_text())
    assert (result["seconds"], result["memory_mib"]) == (None, None), "the first trial takes longer than the others"
    with Ledger(work.place.ledger) as book:
        book.verify(json.loads((run / "run.json").read_text())["ledger_head"], card["ledger_head"])
    load(run, machine=FP32).predict(["the film is good"])
    assert failed(run) == set()
    for name, changes, found in (
        ("privacy", {"tuning": {**card["tuning"], "mean": 3}}, {"search reserved as planned"}),
        ("privacy", {"tuning": {**card["tuning"], "mean": None}}, {"search reserved as planned", "ε recomputed"}),
        ("privacy", {"tuning": {"charged": False}}, {"reserved as planned", "steps charged"}),
        ("privacy", {"tuning": {k: v for k, v in card["tuning"].items() if k != "draws"}}, {"trials drew in secret"}),
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
    assert run_all_cells([cell], work, LocalExecutor(), SilentListener())[0].how == "found"


def interrupt(cell: Cell, work: Work, monkeypatch: pytest.MonkeyPatch, trials: int) -> None:
    """Break a search off when so many of its trials are over."""
    import dpft.compare.running.work as module

    real, calls = module.train, iter(range(99))

    def stops(*words: Any, **more: Any) -> Any:
        if next(calls) == trials:
            raise KeyboardInterrupt
        return real(*words, **more)

    with monkeypatch.context() as patched:
        patched.setattr(module, "train", stops)
        with pytest.raises(KeyboardInterrupt):
            run_all_cells([cell], work, LocalExecutor(), SilentListener())


def test_a_search_that_was_broken_off_goes_on_with_the_same_k(
    cell: Cell, work: Work, k_is_three: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a K that is drawn again, or a second search in the ledger, after a kill."""
    interrupt(cell, work, monkeypatch, 1)
    (outcome,) = run_all_cells([cell], work, LocalExecutor(), SilentListener())
    assert outcome.error is None
    assert k_is_three == [4.0]
    assert len(reserved(Path(work.place.ledger))) == 1


def test_a_search_on_public_rows_is_not_charged_and_tunes_every_seed_alike(
    cells: Cells, work: Work, glue_folder: Callable[..., Path]
) -> None:
    public = other_people(glue_folder("sst2", seed=5))
    every = [
        replace(one, trials=search_space_around(one.spec, 2, {}, "glue/sst2", public))
        for one in cells(methods={"slash": {"options": {"dim": 12}, "learning_rate": 0.04}}, epsilons=[8], seeds=2)
    ]
    outcomes = run_all_cells(every, work, LocalExecutor(), SilentListener())
    assert [one.error for one in outcomes] == [None, None]
    assert len(reserved(Path(work.place.ledger))) == 2
    runs = list(work.folder.runs.iterdir())
    rates = {json.loads((run / "spec.json").read_text())["learning_rate"] for run in runs}
    assert len(runs) == 2
    assert len(rates) == 1
    assert every[0].trials is not None
    assert rates <= {every[0].trials.public_spec(every[0].spec, n).learning_rate for n in range(2)}
    card = json.loads((runs[0] / "privacy.json").read_text())
    assert "declared public" in card["tuning"]["statement"]
    assert [one.how for one in run_all_cells(every, work, LocalExecutor(), SilentListener())] == ["found", "found"]


def test_the_cells_own_rows_are_never_taken_for_public(cells: Cells, work: Work) -> None:
    """Catches: an uncharged search on the private rows under another name."""
    (one,) = cells(methods={"slash": {"options": {"dim": 12}, "learning_rate": 0.04}}, epsilons=[8])
    own = replace(one, trials=search_space_around(one.spec, 2, {}, "glue/sst2", one.spec.data))
    (outcome,) = run_all_cells([own], work, LocalExecutor(), SilentListener())
    assert outcome.error is not None
    assert "must not see the cell's own" in outcome.error
    assert not Path(work.place.ledger).exists()


def test_a_search_is_planned_at_its_own_noise_and_charged_as_one(cell: Cell, work: Work) -> None:
    found = comparison_plan([cell], work.place, {}, CachingMemo(), SilentListener(), measured=False)
    alone = plan_cell(replace(cell, trials=None), 400)
    assert found.cells[0].plan.noise > 1.2 * alone.noise
    assert found.charges[0].epsilon == pytest.approx(found.cells[0].plan.epsilon_upper, rel=1e-6)


def test_rows_that_the_ledger_protects_are_never_taken_for_public(
    cells: Cells, work: Work, glue_folder: Callable[..., Path]
) -> None:
    """Catches: only the two data sets compared with each other, while the public one is a population with a limit."""
    (one,) = cells(methods={"slash": {"options": {"dim": 12}, "learning_rate": 0.04}}, epsilons=[8])
    public = other_people(glue_folder("sst2", seed=5))
    (theirs,) = cells(methods={"linear": {"learning_rate": 0.1}}, epsilons=[2], data=public)
    train(theirs.spec, runs=work.folder.path / "theirs", ledger=work.place.ledger, population="theirs", machine=FP32)
    searched = replace(one, trials=search_space_around(one.spec, 2, {}, "glue/sst2", public))
    (outcome,) = run_all_cells([searched], work, LocalExecutor(), SilentListener())
    assert outcome.error is not None
    assert "declared public must not be those of a population" in outcome.error
    assert len(reserved(Path(work.place.ledger))) == 1
    assert not (work.folder.path / "public" / "runs").exists()


@pytest.mark.usefixtures("lower_is_better")
def test_of_errors_the_least_wins(cell: Cell, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches a maximum over whatever the metric is: by perplexity it would publish the worst run.
    trained(monkeypatch, 0.5, 0.25, 0.75)
    (outcome,) = run_all_cells([cell], work, LocalExecutor(), SilentListener())
    assert outcome.result is not None
    assert outcome.result.value == 0.25
    assert json.loads((outcome.result.path / "result.json").read_text())["higher_is_better"] is False


@pytest.mark.usefixtures("lower_is_better")
def test_of_errors_the_least_wins_on_public_rows_too(
    cell: Cell, work: Work, glue_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = search_space_around(cell.spec, 3, {}, "glue/sst2", other_people(glue_folder("sst2", seed=5)))
    rates = trained(monkeypatch, 0.5, 0.25, 0.75, 0.5)
    (outcome,) = run_all_cells([replace(cell, trials=elsewhere)], work, LocalExecutor(), SilentListener())
    assert outcome.error is None
    assert rates[3] == rates[1]


def trained(monkeypatch: pytest.MonkeyPatch, *values: float | None) -> list[float]:
    """The learning rates of the trials that were trained, as they come; their values are `values`, None: it raises."""
    import dpft.compare.running.work as module

    real, found, rates = module.train, iter(values), []

    def counted(spec: Any, **more: Any) -> Any:
        rates.append(spec.learning_rate)
        return real(spec, **more)

    def value(*_: Any) -> float:
        one = next(found)
        if one is None:
            raise ArithmeticError("not to be seen")
        return one

    monkeypatch.setattr(module, "train", counted)
    monkeypatch.setattr("dpft.objectives.classification.measure", value)
    return rates


def test_each_trial_draws_for_itself_whatever_the_seed(
    cell: Cell, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: draws by the spec's seed and the trial's number, so that the published rate tells which trial won."""
    rates = trained(monkeypatch, *[0.5] * 6)
    run_all_cells([cell], work, LocalExecutor(), SilentListener())
    elsewhere = replace(
        work, folder=ComparisonFolder(tmp_path / "again"), place=replace(work.place, ledger=tmp_path / "other")
    )
    run_all_cells([cell], elsewhere, LocalExecutor(), SilentListener())
    assert len(rates) == 6
    assert not set(rates[:3]) <= set(rates[3:])
    assert all(cell.spec.learning_rate / 4 <= rate <= cell.spec.learning_rate * 4 for rate in rates)  # type: ignore[operator]


@pytest.mark.parametrize("winner", [0, 2])
def test_nothing_that_is_published_tells_which_trial_won_or_when(
    cell: Cell, work: Work, monkeypatch: pytest.MonkeyPatch, winner: int
) -> None:
    """Catches: files with the time of their trial or of the search's end, a later ledger head, a trial's seconds."""
    trained(monkeypatch, *[0.9 if n == winner else 0.1 for n in range(3)])
    (outcome,) = run_all_cells([cell], work, LocalExecutor(), SilentListener())
    assert outcome.result is not None
    assert outcome.result.value == 0.9
    (run,) = work.folder.runs.iterdir()
    files = {path.name: path for path in run.iterdir()}
    assert set(files) == {
        "adapter.safetensors", "plan.json", "privacy.json", "private", "result.json", "run.json", "search.json",
        "spec.json",
    }  # fmt: skip
    (charged,) = reserved(Path(work.place.ledger))
    times = {path.stat().st_mtime for path in (*run.rglob("*"), run)}
    assert times == {datetime.fromisoformat(charged.time).timestamp()}
    with Ledger(work.place.ledger) as book:
        heads = {json.loads(files[name].read_text())["ledger_head"] for name in ("run.json", "privacy.json")}
        assert heads == {book.head()}, "the ledger has a row after the reservation"
    assert json.loads(files["search.json"].read_text()) == {
        "cell": cell.digest, "law": "geometric", "ranges": cell.trials.to_json() if cell.trials else None,
    }  # fmt: skip


def test_searches_are_reserved_before_all_trials_and_done_last(
    cell: Cell, cells: Cells, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: the next cell's reservation, with its time, just after a search's end."""
    (plain,) = cells(methods={"linear": {"learning_rate": 0.1}}, epsilons=[8])
    second = replace(cell, spec=replace(cell.spec, seed=1))
    outcomes = run_all_cells([cell, plain, second], work, LocalExecutor(), SilentListener())
    assert [one.error for one in outcomes] == [None] * 3
    assert [one.cell for one in outcomes] == [cell, plain, second]
    with Ledger(work.place.ledger) as book:
        kinds = [json.loads(json.loads(line)["body"])["kind"] for line in lines(book)]
    kinds = [kind for kind in kinds if kind in ("search", "reserve", "settle")]
    assert kinds == ["search", "search", "reserve", "settle"]


def test_trials_that_draw_alike_are_runs_of_their_own(cell: Cell, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a trial with the rates of an earlier one that is taken for it, so that one noise serves twice."""
    rates = trained(monkeypatch, 0.5, 0.75, 0.25)
    narrow = {"learning_rate": [0.1, 0.100001]}
    (outcome,) = run_all_cells(
        [replace(cell, trials=search_space_around(cell.spec, 4, narrow, None, None))],
        work,
        LocalExecutor(),
        SilentListener(),
    )
    assert rates == [0.1] * 3
    assert outcome.result is not None
    assert outcome.result.value == 0.75


def test_a_trial_that_fails_is_the_worst_and_never_run_again(
    cell: Cell, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a search that ends with a failed trial and, taken up again, looks at the rows once more."""
    rates = trained(monkeypatch, None, 0.25, None)
    (outcome,) = run_all_cells([cell], work, LocalExecutor(), SilentListener())
    assert outcome.error is None
    assert outcome.result is not None
    assert outcome.result.value == 0.25
    assert len(rates) == 3


def test_what_is_refused_before_a_trial_begins_costs_no_trial(
    cell: Cell, work: Work, tiny_bert: Path, tmp_path: Path
) -> None:
    """Catches: a model that is not there, counted as so many failed trials of a search that is paid for."""
    moved = tiny_bert.rename(tiny_bert.with_name("moved"))
    try:
        (outcome,) = run_all_cells([cell], work, LocalExecutor(), SilentListener())
    finally:
        moved.rename(tiny_bert)
    assert outcome.error is not None
    assert "that finishes" not in outcome.error
    (outcome,) = run_all_cells([cell], work, LocalExecutor(), SilentListener())
    assert outcome.error is None
    assert len(reserved(Path(work.place.ledger))) == 1


def test_a_search_of_failures_alone_says_so_without_their_words(
    cell: Cell, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(monkeypatch, None, None, None)
    (outcome,) = run_all_cells([cell], work, LocalExecutor(), SilentListener())
    assert outcome.error is not None
    assert "a trial that finishes, got none (ArithmeticError)" in outcome.error
    assert "not to be seen" not in outcome.error


def test_ties_are_broken_by_coins_and_not_by_the_order(tmp_path: Path, cell: Cell) -> None:
    """Catches: of equal values the first or the last, which shifts the winner's number."""
    search_folder = SearchFolder(tmp_path, "0" * 64)
    search_folder.open(plan_cell(cell, 400))
    for tie, run in ((7, "first"), (9, "second"), (8, "third")):
        trial = search_folder.begin(cell.spec, tie)
        (search_folder.place(trial.number) / run).mkdir(parents=True)
        search_folder.end(search_folder.place(trial.number) / run, 0.5)
        assert search_folder.state.best is not None
        assert (search_folder.path / str(search_folder.state.best.run)).exists()
    assert search_folder.state.best.run == "trial-1/second"
    assert sorted(path.name for path in search_folder.path.glob("trial-*")) == ["trial-1"], "a loser was kept"
    again = SearchFolder(tmp_path, "0" * 64)
    again.open(plan_cell(cell, 400))
    assert again.state == search_folder.state


def test_a_search_goes_on_with_its_encoder_and_machine_alone(
    cell: Cell, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: trials of two mechanisms; a trial that ran on another one and can neither count nor be made again."""
    interrupt(cell, work, monkeypatch, 1)
    bf16 = replace(work, place=replace(work.place, machine=replace(FP32, precision="bf16")))
    (outcome,) = run_all_cells([cell], bf16, LocalExecutor(), SilentListener())
    assert outcome.error is not None
    assert "same encoder, precision and device" in outcome.error
    (outcome,) = run_all_cells([cell], work, LocalExecutor(), SilentListener())
    assert outcome.error is None


def test_trials_that_stay_are_told(cell: Cell, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: private trials left on the disk in silence; the command that is repeated removes them."""
    with monkeypatch.context() as patched:
        patched.setattr("dpft.compare.search_folder.shutil.rmtree", lambda *_, **__: None)
        (outcome,) = run_all_cells([cell], work, LocalExecutor(), SilentListener())
        assert outcome.error is not None
        assert "other runs must be deleted" in outcome.error
    (outcome,) = run_all_cells([cell], work, LocalExecutor(), SilentListener())
    assert outcome.how == "found"
    assert not list((work.folder.path / "private").iterdir())


def test_a_search_is_taken_up_again_as_it_was_reserved_or_not_at_all(
    cell: Cell, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: another number of rows, hence another rate, noise and steps than the ledger holds."""
    interrupt(cell, work, monkeypatch, 0)
    assert oct((work.folder.path / "private").stat().st_mode)[-3:] == "700"
    file = Path(str(cell.spec.data)) / "train.parquet"
    rows = pd.read_parquet(file)
    for changed in (rows.iloc[:300], rows.assign(sentence="again " + rows["sentence"])):
        changed.to_parquet(file)
        (outcome,) = run_all_cells([cell], replace(work, memo=CachingMemo()), LocalExecutor(), SilentListener())
        assert outcome.error is not None
        assert "rows that it was reserved for" in outcome.error
    rows.to_parquet(file)
    (outcome,) = run_all_cells([cell], replace(work, memo=CachingMemo()), LocalExecutor(), SilentListener())
    assert outcome.error is None
    assert len(reserved(Path(work.place.ledger))) == 1


def test_trials_are_not_judged_by_the_protected_rows(cells: Cells, work: Work) -> None:
    """Catches: --validation that names the training file, so that un-noised private scores choose the winner."""
    (one,) = cells(methods={"slash": {"options": {"dim": 12}, "learning_rate": 0.04}}, epsilons=[8])
    folder = Path(str(one.spec.data))
    pd.read_parquet(folder / "train.parquet").iloc[:100].to_parquet(folder / "validation.parquet")
    (outcome,) = run_all_cells(
        [replace(one, trials=search_space_around(one.spec, 4, {}, None, None))], work, LocalExecutor(), SilentListener()
    )  # fmt: skip
    assert outcome.error is not None
    assert "must not be training rows" in outcome.error
    assert not Path(work.place.ledger).exists()


def test_searches_by_earlier_versions_have_no_bound_and_are_not_gone_on_with(tmp_path: Path, cell: Cell) -> None:
    """Catches: an old search that still counts as its label says, or trials that go on in their public sequence."""
    with Ledger(tmp_path / "ledger") as book:
        terms = {"rate": 0.1, "noise": 2.0, "steps": 20, "mean": 8.0, "shape": 1.0}
        data_identity = book.data_identity([f"text {n}" for n in range(40)])
        book.reserve_search("old", **terms, data_identity=data_identity)
        body = json.loads(json.loads([*lines(book)][-1])["body"])
        assert body["draws"] == "secret"
        old = Search.from_body({key: body[key] for key in body if key != "draws"})
        assert old.draws == "public"
        population = book.view().holding("old")
        assert population is not None
        population.runs[0].terms = old
        found = report(population)
        assert found["composition"] is None or found["composition"]["epsilon"] is None
        assert "does not hold" in found["runs"][0]["label"]
        with pytest.raises(ArithmeticError, match="its promise does not hold"):
            Spending.of(population).bound(Limit(8.0, 1e-5))
    planned = {**cell.trials.to_json(), "seed": 3} if cell.trials else {}
    with pytest.raises(UserError, match="an earlier version planned"):
        SearchSpace.from_json({key: planned[key] for key in planned if key != "draws"})


def test_the_attack_that_a_published_number_allows_is_beyond_the_claim_and_ours_within() -> None:
    """An exact computation of both; the first is what searches by earlier versions published."""
    budget = Budget(6.7, 1e-6)
    noise, claimed = calibrate_search(1.0, 1, budget, 8.0)
    assert Attack(noise, 8.0, numbered=True).delta(claimed) > 4.5e-4
    assert Attack(noise, 8.0, numbered=False).delta(claimed) < 1e-6


def test_a_search_without_anything_to_draw_is_refused(cell: Cell) -> None:
    with pytest.raises(UserError, match="something to draw"):
        search_space_around(cell.spec, 3, {"learning_rate": [0.1, 0.1]}, None, None)
    with pytest.raises(UserError, match="trials must be"):
        search_space_around(cell.spec, 0, {}, None, None)
