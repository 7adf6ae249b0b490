"""The plan of a comparison: noise multiplier, steps, time and memory of every cell, and the privacy cost of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpft.compare.cells import Cell
from dpft.compare.costs import Charge, PendingCharges, Terms, charges
from dpft.compare.events import Listener
from dpft.compare.folder import ComparisonFolder
from dpft.errors import UserError
from dpft.inference import speed
from dpft.inference.inputs import load_task, task_key
from dpft.machine.memo import Memo
from dpft.privacy.calibration.search_noise import ACCOUNTANT, SHAPE, calibrate_search
from dpft.privacy.ledger import Ledger, Reservation, Search, ledger_exists, written
from dpft.privacy.mechanism.plan import Plan, make_plan
from dpft.spec import Machine, Spec, canonical_json
from dpft.tasks import Task

_COPIES = 4  # of the trainable parameters on the disk: the adapter, and a checkpoint with Adam's two moments
_FILES = 64 * 1024  # bytes of the other files of a run


@dataclass(frozen=True)
class Placement:
    """Where a comparison runs: the ledger that is charged, the population, and the machine."""

    ledger: str | Path
    population: str | None = None
    machine: Machine = dataclasses.field(default_factory=Machine)

    def to_json(self) -> dict[str, Any]:
        return {"ledger": str(written(self.ledger)), "population": self.population, "machine": vars(self.machine)}


def placement_of(folder: ComparisonFolder, asked: Placement, named: bool) -> Placement:
    """The place of the plan in `folder`, or `asked` where there is no plan. `named`: a ledger was given explicitly."""
    found = folder.plan()
    if found is None:
        return asked
    planned = str(found["ledger"])
    if named and str(written(asked.ledger)) != planned:
        raise UserError(f"a comparison is charged to one ledger, {planned}, got {asked.ledger}; drop --ledger")
    return dataclasses.replace(asked, ledger=planned, population=found["population"])


@dataclass(frozen=True)
class PlannedCell:
    """A cell with its plan and its expected time, memory and trainable parameters; None where not measured."""

    cell: Cell
    plan: Plan
    seconds: float | None
    mebibytes: float | None
    trained: int | None
    done: bool

    def to_json(self) -> dict[str, Any]:
        rest = {name: getattr(self, name) for name in ("seconds", "mebibytes", "trained")}
        return {**self.cell.to_json(), "title": self.cell.title, "plan": self.plan.to_json(), **rest}


@dataclass(frozen=True)
class ComparisonPlan:
    """All planned cells, and the privacy cost for each population."""

    cells: tuple[PlannedCell, ...]
    charges: tuple[Charge, ...]

    @property
    def seconds(self) -> float | None:
        """Expected time of all unfinished cells; None where one was not measured."""
        left = [one.seconds for one in self.cells if not one.done]
        return None if None in left else sum(s for s in left if s is not None)

    @property
    def room(self) -> int:
        """Expected size of the runs on disk, in bytes."""
        return sum(_FILES + 4 * _COPIES * (one.trained or 0) for one in self.cells if not one.done)

    def to_json(self) -> dict[str, Any]:
        return {"cells": [one.to_json() for one in self.cells], "charges": [one.to_json() for one in self.charges],
                "seconds": self.seconds}  # fmt: skip


def plan_cell(cell: Cell, units: int) -> Plan:
    """The plan that the cell's privacy card will state: of its run, or of its whole search."""
    alone = make_plan(cell.spec, units)
    if cell.trials is None or cell.trials.public is not None or alone.budget is None:
        return alone
    noise, upper = calibrate_search(alone.rate, alone.steps, alone.budget, cell.trials.count)
    return dataclasses.replace(alone, noise=noise, epsilon_upper=upper, accountant=ACCOUNTANT)


def terms(cell: Cell, plan: Plan, run: str) -> Terms | None:
    """The cell's reservation in the ledger; None without privacy."""
    if plan.budget is None or plan.epsilon_upper is None:
        return None
    if plan.accountant == ACCOUNTANT and cell.trials is not None:
        return Search(run, plan.rate, plan.noise, plan.steps, float(cell.trials.count), SHAPE)
    return Reservation(run, plan.rate, plan.noise, plan.steps, plan.budget.delta, plan.epsilon_upper)


def comparison_plan(
    cells: Sequence[Cell],
    place: Placement,
    started: Mapping[str, Path],
    memo: Memo,
    listener: Listener,
    *,
    measured: bool = True,
) -> ComparisonPlan:
    """Plan every cell. `started`: existing run folders by cell digest. Raises UserError, OverLimit included."""
    listener.stage("planning the noise")
    plans = [plan_cell(cell, load_task(cell.spec, memo).train.unit_count) for cell in cells]
    listener.stage("composing the privacy cost")
    bills = _pending_charges(cells, plans, started, memo)
    if ledger_exists(place.ledger):
        with Ledger(place.ledger) as book:
            owed = charges(bills, book, place.population)
    else:
        owed = charges(bills, None, place.population)
    costs: dict[str, speed.Cost] = {}
    found = []
    for cell, plan in zip(cells, plans, strict=True):
        done = cell.digest in started and (started[cell.digest] / "result.json").is_file()
        cost = None if done or not measured else _cost(cell, load_task(cell.spec, memo), place.machine, costs, listener)
        found.append(_planned(cell, plan, cost, load_task(cell.spec, memo), done))
    return ComparisonPlan(tuple(found), tuple(owed))


def _pending_charges(
    cells: Sequence[Cell], plans: Sequence[Plan], started: Mapping[str, Path], memo: Memo
) -> list[PendingCharges]:
    """Reservations still to be made, grouped by rows. An interrupted run is reserved already."""
    groups: dict[str, tuple[Spec, list[float], list[Terms]]] = {}
    for number, (cell, plan) in enumerate(zip(cells, plans, strict=True)):
        asked = None if cell.digest in started else terms(cell, plan, f"cell {number}")
        if asked is None or plan.budget is None:
            continue
        spec = cell.spec
        key = canonical_json(task_key(spec))
        _, deltas, asks = groups.setdefault(key, (spec, [], []))
        deltas.append(plan.budget.delta)
        asks.append(asked)
    return [
        PendingCharges(spec.task, load_task(spec, memo).train, spec.unit, min(deltas), tuple(asks))
        for spec, deltas, asks in groups.values()
    ]


def _cost(cell: Cell, task: Task, machine: Machine, known: dict[str, speed.Cost], listener: Listener) -> speed.Cost:
    alike = speed.kind(cell.spec, task)
    key = canonical_json(alike.to_json())
    if key not in known:
        listener.stage(f"measuring {cell.arm} on placeholder texts")
        known[key] = speed.measure(alike, task, machine)
    return known[key]


def _planned(cell: Cell, plan: Plan, cost: speed.Cost | None, task: Task, done: bool) -> PlannedCell:
    if cost is None:
        return PlannedCell(cell, plan, None, None, None, done)
    runs = cell.trials.count if cell.trials is not None else 1
    seconds = cost.seconds(plan, task)
    return PlannedCell(cell, plan, None if seconds is None else runs * seconds, cost.mebibytes, cost.trained, done)


def check_names(cells: Sequence[Cell], place: Placement) -> None:
    """Raise UserError for a population where no cell is private."""
    if place.population is not None and all(cell.epsilon is None for cell in cells):
        raise UserError("only private runs are charged to a population, got none; drop --population")
