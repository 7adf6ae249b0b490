"""Searches over hyper-parameters: on declared public rows, or on the cell's own, and then charged as a whole.

Papernot and Steinke 2022: K is drawn first, from a declared distribution; K and every run but the best stay secret. So
the trials of a charged search lie in private/ under a scratch ledger, and are deleted once the best one is published.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpft.card import promise
from dpft.compare.cells import Cell
from dpft.compare.folder import SEARCHED
from dpft.compare.planning import plan_cell, terms
from dpft.compare.trials import Trials
from dpft.compare.watch import How
from dpft.privacy.accountants import epsilon_quick
from dpft.privacy.ledger import Ledger, Search
from dpft.privacy.ledger.summary import summarize
from dpft.privacy.plan import Plan
from dpft.privacy.search import draw_runs
from dpft.privacy.secret import Secret
from dpft.progress import Progress
from dpft.result import Result
from dpft.rows import rows_of
from dpft.run import Run, free, write
from dpft.spec import Spec, UserError
from dpft.training import Planner

if TYPE_CHECKING:
    from dpft.compare.work import Work

Done = tuple[Result, str | None, How]
_CARRIED = ("spec.json", "adapter.safetensors")


class Quiet(Progress):
    """How many trials there are must not be seen, so nothing of them is shown."""


def check_public(work: Work, cell: Cell, trials: Trials) -> None:
    """Refuse rows as public that the ledger knows as somebody's, or that are the cell's own."""
    public, own = (rows_of(spec, work.shelf).train for spec in (trials.on_public(cell.spec), cell.spec))
    with Ledger(work.elsewhere("public", work.folder.path / "public" / "ledger.sqlite").place.ledger) as book:
        same = book.claim(public.texts, public.pairs).sketch.matches(book.claim(own.texts, own.pairs).sketch)
    if same:
        raise UserError(f"a search on public rows must not see the cell's own, got {trials.public}; name another task")


def tuned_on_public(work: Work, cell: Cell, trials: Trials, progress: Progress) -> Done:
    """Try all trials on the public rows, with the cell's own budget; then run the cell with what did best there."""
    (work.folder.path / "public").mkdir(parents=True, exist_ok=True)
    check_public(work, cell, trials)
    there = work.elsewhere("public", work.folder.path / "public" / "ledger.sqlite")
    base = trials.on_public(cell.spec)
    specs = [trials.spec(base, number) for number in range(trials.count)]
    best = max((there.one(spec, progress)[0].value, -number) for number, spec in enumerate(specs))
    chosen = specs[-best[1]]
    spec = dataclasses.replace(cell.spec, learning_rate=chosen.learning_rate, clip=chosen.clip)
    result, _, how = work.one(spec, progress)
    says = f"learning rate and clip: the best of {trials.count} on {trials.public}, which are declared public"
    run = Run.open(result.path)
    run.write_json("privacy", {**(run.read_json("privacy") or {}), "tuning": {"charged": False, "statement": says}})
    run.write_json(SEARCHED.removesuffix(".json"), {"cell": cell.digest, "ranges": trials.to_json()})
    return result, None, how


def best_of_trials(work: Work, cell: Cell, trials: Trials, progress: Progress) -> Done:
    """Draw K, run K trials where nobody looks, publish the best alone. Taken up where it was broken off."""
    known, corner = work.folder.found().get(cell.digest), work.folder.path / "private" / cell.digest[:16]
    if known is not None:
        shutil.rmtree(corner, ignore_errors=True)
        return Result.from_json({**(Run.open(known).read_json("result") or {}), "path": known}), None, "found"
    progress.stage("searching: how many trials there are stays secret")
    task = rows_of(cell.spec, work.shelf)
    if task.validation is None:
        raise UserError("a search needs rows to judge its trials by, got no validation rows; pass --validation FILE")
    plan = plan_cell(cell, task.train.protected)
    corner.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = _drawn(work, cell, trials, plan, corner)
    there = work.elsewhere(f"private/{corner.name}", corner / "ledger.sqlite").unseen()
    there.folder.recover()
    best: tuple[float, int] | None = None
    results: dict[int, Result] = {}
    for number in range(state["runs"]):
        results[number] = there.one(trials.spec(cell.spec, number), Quiet(), _planner(plan))[0]
        value = results[number].value
        assert value is not None  # there are validation rows
        best = max(best or (-1e9, 0), (value, -number))
    assert best is not None  # a geometric K is never 0
    path = _publish(work, cell, trials, plan, state["id"], results[-best[1]])
    shutil.rmtree(corner, ignore_errors=True)
    return Result.from_json({**(Run.open(path).read_json("result") or {}), "path": path}), None, "trained"


def _drawn(work: Work, cell: Cell, trials: Trials, plan: Plan, corner: Path) -> dict[str, Any]:
    """The search's identity in the ledger and its K. It is reserved before K is drawn, and K is drawn once."""
    file = corner / SEARCHED
    state: dict[str, Any]
    state = json.loads(file.read_text()) if file.is_file() else {"id": secrets.token_hex(16), "runs": None, "head": ""}
    if state["runs"] is not None:
        return dict(state)
    _keep(file, state)
    asked = terms(cell, plan, state["id"])
    if not isinstance(asked, Search):  # without privacy nothing is charged and nothing hidden
        state["runs"] = trials.count
    else:
        with Ledger(work.place.ledger) as book:
            if book.view().holding(asked.run) is None:
                rows = rows_of(cell.spec, work.shelf).train
                claim = book.claim(rows.texts, rows.pairs, work.place.population, cell.spec.unit)
                book.reserve_search(
                    asked.run, rate=asked.rate, noise=asked.noise, steps=asked.steps, mean=asked.mean,
                    shape=asked.shape, claim=claim,
                )  # fmt: skip
            state["head"] = book.head()
        state["runs"] = draw_runs(asked.mean, asked.shape, Secret())
    _keep(file, state)
    return dict(state)


def _keep(file: Path, state: dict[str, Any]) -> None:
    write(file, json.dumps(state).encode())
    file.chmod(0o600)


def _planner(plan: Plan) -> Planner:
    """Every trial at the search's noise, which is more than one run alone would need."""

    def make(spec: Spec, units: int) -> Plan:
        if plan.budget is None:
            return plan
        upper, name = epsilon_quick(plan.noise, plan.rate, plan.steps, plan.budget.delta)
        return dataclasses.replace(plan, clip=spec.clip, epsilon_upper=upper, accountant=name)

    return make


def _publish(work: Work, cell: Cell, trials: Trials, plan: Plan, id: str, best: Result) -> Path:
    """The best trial as a run of its own, under the label of the whole search; all of it appears at once."""
    run = Run.open(best.path)
    target = free(work.folder.runs / best.path.name.rpartition("-")[0], id)
    making = target.with_name(f".{target.name}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    for name in _CARRIED:
        shutil.copy(run.path / name, making / name)
    plan = dataclasses.replace(plan, clip=run.plan.clip)
    head, card = _card(work, run, plan, trials, id)
    about = {"format": 1, "id": id, "ledger": work.place.to_json()["ledger"] if head else "", "ledger_head": head}
    result = dataclasses.replace(best, path=target, epsilon=plan.epsilon_upper)
    search = {"cell": cell.digest, "ranges": trials.to_json(), "law": "geometric"}
    files = {"plan": plan.to_json(), "privacy": card, "run": about, "result": result.to_json(), "search": search}
    for name, content in files.items():
        write(making / f"{name}.json", (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    os.replace(making, target)
    return target


def _card(work: Work, run: Run, plan: Plan, trials: Trials, id: str) -> tuple[str, dict[str, Any]]:
    """The ledger's head and the trial's card, with the search's promise in the place of the trial's."""
    card: dict[str, Any] = run.read_json("privacy") or {}
    if plan.budget is None or plan.epsilon_upper is None:
        says = f"the best of {trials.count} runs by the validation rows; nothing is private"
        return "", {**card, "tuning": {"charged": False, "statement": says}}
    with Ledger(work.place.ledger) as book:
        head, population = book.head(), book.view().holding(id)
        summary = None if population is None else summarize(population, plan.budget.delta).to_json()
    says = (
        f"the best of a random number of runs, geometric with mean {trials.count}, each at this noise; the promise is "
        "of the whole search (Papernot and Steinke 2022), and its other runs were deleted unseen"
    )
    return head, {
        **card, "statement": promise(run.spec, plan), "epsilon": plan.epsilon_upper,
        "accountant": plan.accountant, "ledger_head": head, "population": summary,
        "tuning": {"charged": True, "mean": trials.count, "law": "geometric", "statement": says},
    }  # fmt: skip
