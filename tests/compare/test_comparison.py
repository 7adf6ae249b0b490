"""A comparison from plan to table: nothing twice, nothing lost, one line for what fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpft import objectives
from dpft.compare.costs import PendingCharges, charges
from dpft.compare.events import SilentListener
from dpft.compare.folder import ComparisonFolder
from dpft.compare.planning import comparison_plan
from dpft.compare.running.run_cells import LocalExecutor, run_all_cells
from dpft.compare.running.work import Work
from dpft.compare.summary import lines
from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.inference import speed
from dpft.machine.memo import CachingMemo
from dpft.privacy.accounting.pld import heterogeneous_pld
from dpft.privacy.ledger import Ledger, OverLimit, Reservation
from dpft.progress import Progress
from dpft.runs.folder import Run
from dpft.tasks import Task
from tests.compare.conftest import FP32, Cells, Heard, reserved
from tests.stopping import StopAt


def test_every_cell_is_trained_once_and_found_ever_after(cells: Cells, work: Work) -> None:
    every = cells(seeds=2)
    first = run_all_cells(every, work, LocalExecutor(), SilentListener())
    assert [one.error for one in first] == [None] * 8
    assert [one.how for one in first] == ["trained"] * 8
    again = run_all_cells(every, replace(work, memo=CachingMemo()), LocalExecutor(), SilentListener())
    assert [one.how for one in again] == ["found"] * 8
    assert [a.result and a.result.value for a in again] == [b.result and b.result.value for b in first]
    assert len(list(work.folder.runs.iterdir())) == 8
    assert len(reserved(Path(work.place.ledger))) == 4
    for line in lines(first):
        own = [o.result.value for o in first if o.result and (o.cell.arm, o.cell.epsilon) == (line.arm, line.epsilon)]
        assert line.n == len(own) == 2
        assert line.mean == pytest.approx(sum(own) / 2)
        assert line.sd == pytest.approx(abs(own[0] - own[1]) / 2**0.5)


def test_rows_tokens_and_frozen_features_are_made_once(cells: Cells, work: Work) -> None:
    run_all_cells(cells(seeds=2), work, LocalExecutor(), SilentListener())
    memo = work.memo
    assert isinstance(memo, CachingMemo)
    assert memo.made == {"tasks": 1, "token arrays": 1, "frozen features": 1, "shared records": 1}
    assert (memo.asked["token arrays"], memo.asked["frozen features"]) == (8, 4)


def test_what_is_shared_changes_no_result(cells: Cells, work: Work, tmp_path: Path) -> None:
    """At rate 1, without privacy, a spec decides its result: on the shelf's rows as on its own."""
    bare = [cell for cell in cells(batch_size=400, epochs=1) if cell.epsilon is None]
    alone = Work(ComparisonFolder(tmp_path / "alone"), work.place)
    together = run_all_cells([*cells(epsilons=[8]), *bare], work, LocalExecutor(), SilentListener())[-2:]
    apart = run_all_cells(bare, alone, LocalExecutor(), SilentListener())
    assert [o.result and o.result.value for o in together] == [o.result and o.result.value for o in apart]
    assert None not in [o.result for o in together]


def test_a_cell_that_fails_is_told_in_one_line_and_the_rest_go_on(
    cells: Cells, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a message that quotes a row."""
    from dpft.methods.slash import Slash

    def broken(*_: object) -> None:
        raise RuntimeError("row 17 says: the secret")

    monkeypatch.setattr(Slash, "attach", broken)
    outcomes = run_all_cells(cells(), work, LocalExecutor(), SilentListener())
    assert [one.error is None for one in outcomes] == [False, False, True, True]
    assert all("secret" not in str(one.error) and "\n" not in str(one.error) for one in outcomes)


class Interrupts(Heard):
    def began(self, cell: Any, number: int, count: int) -> Progress:
        return StopAt(2) if number == 1 else Progress()


def test_a_cell_that_was_broken_off_is_resumed_and_charged_once(cells: Cells, work: Work) -> None:
    """Catches: a cell that is trained anew, and so charged twice."""
    every = cells()
    with pytest.raises(KeyboardInterrupt):
        run_all_cells(every, work, LocalExecutor(), Interrupts())
    outcomes = run_all_cells(every, work, LocalExecutor(), SilentListener())
    assert [one.how for one in outcomes] == ["resumed", "trained", "trained", "trained"]
    assert [run.charged for run in reserved(Path(work.place.ledger))] == [5, 5]


def test_a_reservation_whose_folder_was_never_finished_is_taken_up(
    cells: Cells, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a kill between the reservation and run.json that loses the reserved steps for good."""
    every = cells(methods={"slash": {"options": {"dim": 12}}}, epsilons=[8])
    with monkeypatch.context() as patched:
        patched.setattr(Run, "reserved", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_all_cells(every, work, LocalExecutor(), SilentListener())
    assert [run.charged for run in reserved(Path(work.place.ledger))] == [0]
    (outcome,) = run_all_cells(every, work, LocalExecutor(), SilentListener())
    assert outcome.how == "resumed"
    assert [run.charged for run in reserved(Path(work.place.ledger))] == [5]


def test_nothing_but_an_unfinished_folder_is_ever_removed(work: Work) -> None:
    ours, theirs = work.folder.runs / "half", work.folder.runs / "notes"
    for folder, name in ((ours, "intent.json"), (theirs, "diary.txt")):
        folder.mkdir(parents=True)
        (folder / name).write_text("{}")
    work.folder.recover()
    assert not ours.exists()
    assert (theirs / "diary.txt").exists()


def test_the_plan_says_the_noise_and_what_all_cells_are_charged_together(cells: Cells, work: Work) -> None:
    """Oracle: the accountants on all steps together. Catches: a sum of epsilons; a finished cell billed again."""
    every = cells(seeds=2)
    found = comparison_plan(every, work.place, {}, CachingMemo(), SilentListener(), measured=False)
    (charge,) = found.charges
    plans = [one.plan for one in found.cells if one.plan.budget]
    assert charge.cells == len(plans) == 4
    least = heterogeneous_pld([(p.noise, p.rate, p.steps) for p in plans], 1e-4)
    assert 0.99 * least <= charge.epsilon <= 1.3 * least  # RDP, where the others find no time, is above by a fifth
    assert charge.epsilon < sum(p.epsilon_upper or 0 for p in plans)
    assert charge.epsilon == charge.together < charge.filter
    assert not Path(work.place.ledger).exists(), "a plan writes nothing"
    run_all_cells(every[:1], work, LocalExecutor(), SilentListener())
    (rest,) = comparison_plan(
        every, work.place, work.folder.found(), CachingMemo(), SilentListener(), measured=False
    ).charges
    assert rest.cells == 3
    assert rest.epsilon < rest.together == pytest.approx(charge.epsilon)


def test_a_comparison_beyond_a_limit_is_refused_before_anything_is_spent(cells: Cells, work: Work) -> None:
    every = cells(methods={"slash": {"options": {"dim": 12}}}, epsilons=[8], seeds=3)
    place = replace(work.place, population="team")
    with Ledger(place.ledger) as book:
        book.limit("team", epsilon=12.0, delta=1e-4, planned=True, new=True)
        rows = book.rows()
    with pytest.raises(OverLimit, match=r"limit of ε 12.*these 3 cells") as caught:
        comparison_plan(every, place, {}, CachingMemo(), SilentListener(), measured=False)
    assert "\n" not in str(caught.value)
    with Ledger(place.ledger) as book:
        assert book.rows() == rows
    comparison_plan(every[:1], place, {}, CachingMemo(), SilentListener(), measured=False)


def test_rows_of_the_same_people_are_charged_together_and_others_apart() -> None:
    def bill(task: str, first: int, name: str) -> PendingCharges:
        texts = [f"text number {n} of all" for n in range(first, first + 200)]
        import numpy as np

        terms = Reservation(name, 0.1, 1.0, 10, 1e-5, 5.0)
        return PendingCharges(task, Examples(texts, None, np.zeros(200, np.int64)), "example", 1e-5, (terms,))

    found = charges([bill("a", 0, "x"), bill("b", 5000, "y"), bill("c", 50, "z")], None, None)
    assert sorted((charge.tasks, charge.cells) for charge in found) == [(("a", "c"), 2), (("b",), 1)]


def test_a_folder_of_another_plan_is_refused_and_its_own_goes_on(cells: Cells, work: Work) -> None:
    found = comparison_plan(cells(), work.place, {}, CachingMemo(), SilentListener(), measured=False)
    work.folder.write({**work.place.to_json(), **found.to_json()})
    assert work.folder.has_same_plan(cells())
    assert work.folder.cells() == cells()
    with pytest.raises(UserError, match="another for"):
        work.folder.has_same_plan(cells(seeds=2))
    (work.folder.path / "comparison.json").write_text("{}")
    with pytest.raises(UserError, match=r"comparison.json must be"):
        work.folder.has_same_plan(cells())


def test_two_processes_never_work_on_one_comparison(work: Work) -> None:
    with work.folder.alone(), pytest.raises(UserError, match="another at work"), work.folder.alone():
        pass


def test_a_disk_without_room_is_refused_and_one_that_fills_up_stops_all(
    cells: Cells, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    with pytest.raises(UserError, match="MiB free"):
        work.folder.check_disk_space(2**60)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dpft.compare.running.work.train", full)
    heard = Heard()
    with pytest.raises(UserError, match="none left"):
        run_all_cells(cells(), work, LocalExecutor(), heard)
    assert heard.outcomes == []


class Untouchable(list[str]):
    """As many texts as asked for, which nobody may look at."""

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("a private row was read")

    __iter__ = __getitem__  # type: ignore[assignment]


@pytest.mark.parametrize("epsilon", [8, "inf"])
@pytest.mark.parametrize("method", ["slash", "linear"])
def test_time_is_measured_on_public_texts_alone(cells: Cells, method: str, epsilon: object) -> None:
    """Catches: a probe that times private rows."""
    import numpy as np

    options = {"slash": {"options": {"dim": 12}}, "linear": {}}[method]
    (cell,) = cells(methods={method: options}, epsilons=[epsilon])
    rows = Examples(Untouchable(["?"] * 400), None, np.zeros(400, np.int64))
    task = Task("glue/sst2", rows, rows, ("no", "yes"), "accuracy")
    cost = speed.measure(speed.kind(cell.spec, task), task, FP32)
    (planned,) = comparison_plan([cell], placement_of(cell), {}, CachingMemo(), SilentListener(), measured=False).cells
    assert min(cost.setup, cost.step, cost.judged, cost.mebibytes) > 0
    assert cost.seconds(planned.plan, task) > cost.setup
    assert cost.frozen is (method == "linear")
    assert cost.trained == (78 if method == "slash" else 66)


@pytest.mark.parametrize("kind", [kind for kind in objectives.names() if objectives.load(kind).outputs(3)])
@pytest.mark.parametrize("method", ["slash", "linear"])
def test_time_is_measured_for_every_kind_of_task_with_a_head(cells: Cells, method: str, kind: str) -> None:
    """Catches: a probe that takes each text for one of some classes (a comparison on named entities failed so)."""
    (cell,) = cells(methods={method: {"slash": {"options": {"dim": 12}}, "linear": {}}[method]}, epsilons=[8])
    labels, objective = () if kind == "regression" else ("O", "B-LOC", "I-LOC"), objectives.load(kind)
    rows = Examples(Untouchable(["?"] * 400), None, objective.blank(400, len(labels)))
    task = Task("files", rows, rows, labels, "accuracy", objective=objective)
    spec = replace(cell.spec, representation=objective.representation_for(cell.spec.representation, "files"))
    cost = speed.measure(speed.kind(spec, task), task, FP32)
    assert min(cost.setup, cost.step, cost.judged, cost.mebibytes) > 0
    assert cost.trained == 33 * max(1, len(labels)) + (12 if method == "slash" else 0)


def placement_of(_cell: object) -> Any:
    from dpft.compare.planning import Placement

    return Placement("nowhere/ledger.sqlite", None, FP32)


def test_a_comparison_writes_all_that_was_planned(cells: Cells, work: Work, glue_folder: Callable[..., Path]) -> None:
    found = comparison_plan(cells(), work.place, {}, CachingMemo(), SilentListener(), measured=False)
    work.folder.write({**work.place.to_json(), **found.to_json()})
    plan = json.loads((work.folder.path / "comparison.json").read_text())
    assert [c["plan"]["noise"] for c in plan["cells"]] == [c.plan.noise for c in found.cells]
    assert plan["charges"][0]["epsilon"] == found.charges[0].epsilon
    assert plan["population"] is None
