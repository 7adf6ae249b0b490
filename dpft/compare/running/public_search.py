"""Random searches on public rows. They cost no privacy, so the rows must not belong to a protected population."""

from __future__ import annotations

from collections.abc import Iterator

from dpft.compare.cells import Cell
from dpft.compare.events import How
from dpft.compare.folder import SEARCHED
from dpft.compare.running.work import Work
from dpft.compare.search_space import SearchSpace
from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.inference.inputs import load_task
from dpft.privacy.ledger import Ledger, ledger_exists
from dpft.privacy.ledger.populations import Population
from dpft.progress import Progress
from dpft.runs.folder import Run
from dpft.runs.result import Result
from dpft.spec import Spec


def search_public_rows(
    work: Work, cell: Cell, trials: SearchSpace, progress: Progress
) -> tuple[Result, str | None, How]:
    """Run all trials on the public rows with the cell's budget, then run the cell with the best trial's settings."""
    (work.folder.path / "public").mkdir(parents=True, exist_ok=True)
    check_public(work, cell, trials)
    there = work.in_subfolder("public", work.folder.path / "public" / "ledger.sqlite")
    base = trials.on_public(cell.spec)
    if load_task(base, work.memo).validation is None:
        raise UserError(
            f"a search needs a validation set to rank its trials, got none of {trials.public}; name another task"
        )
    specs = [trials.public_spec(base, number) for number in range(trials.count)]
    best = max((there.one(spec, progress)[0].merit, -number) for number, spec in enumerate(specs))
    chosen = specs[-best[1]]
    spec = cell.spec.stating(learning_rate=chosen.learning_rate, clip=chosen.clip)
    result, _, how = work.one(spec, progress)
    says = f"learning rate and clip: the best of {trials.count} on {trials.public}, which are declared public"
    run = Run.open(result.path)
    run.write_json("privacy", {**(run.read_json("privacy") or {}), "tuning": {"charged": False, "statement": says}})
    run.write_json(SEARCHED.removesuffix(".json"), {"cell": cell.digest, "ranges": trials.to_json()})
    return result, None, how


def check_public(work: Work, cell: Cell, trials: SearchSpace) -> None:
    """Raise UserError where public rows are the cell's own or protected by the ledger, for training or validation.

    A population is protected once it has a run or a limit.
    """
    public = list(_rows(work, trials.on_public(cell.spec)))
    own = load_task(cell.spec, work.memo).train
    with Ledger(work.folder.path / "public" / "ledger.sqlite") as scratch:
        mine = scratch.data_identity(own.texts, own.pairs).sketch
        if any(scratch.data_identity(rows.texts, rows.pairs).sketch.matches(mine) for rows in public):
            raise UserError(
                f"a search on public rows must not see the cell's own, got {trials.public}; name another task"
            )
    if not ledger_exists(work.place.ledger):
        return
    with Ledger(work.place.ledger) as book:
        view = book.view()
        for rows in public:
            for one in book.data_identity(rows.texts, rows.pairs).matched(view).populations(view):
                _refuse_protected(one, trials)


def _rows(work: Work, spec: Spec) -> Iterator[Examples]:
    """All rows of the public task that a trial reads."""
    task = load_task(spec, work.memo)
    yield task.train
    yield from task.judged.values()


def _refuse_protected(population: Population, trials: SearchSpace) -> None:
    if population.runs or population.limits:
        held = f"{len(population.runs)} runs" if population.runs else "a limit"
        raise UserError(
            f"rows declared public must not be those of a population in the ledger, got {trials.public}, which match "
            f"{population.title} with {held}; name another task, or search on the cell's own rows, which is charged"
        )
