"""Output of a comparison for a person: its plan, one progress view for all cells, its table."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from dpft.cli import _show
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import dpft.progress
from dpft.errors import UserError

if TYPE_CHECKING:
    from dpft.compare.cells import Cell
    from dpft.compare.events import Outcome
    from dpft.compare.folder import ComparisonFolder
    from dpft.compare.planning import ComparisonPlan, Placement, PlannedCell
    from dpft.compare.running.run_cells import Executor
    from dpft.compare.summary import ArmSummary


class CellProgress(dpft.progress.Progress):
    """The progress of one cell's run in the view of all cells."""

    def __init__(self, view: ProgressView, title: str, name: str) -> None:
        self.view, self.title, self.name, self.steps = view, title, name, 0
        self.share = 0.0
        self.bar = view.bars.add_task(title, total=None, count="")

    def stage(self, text: str) -> None:
        self.view.bars.update(self.bar, description=f"{self.title}: {text} …")

    def started(self, done: int, steps: int) -> None:
        self.steps = steps
        self.view.bars.reset(self.bar, total=steps, completed=done, description=self.title)  # a search trains often
        self.stepped(done, None)

    def stepped(self, done: int, epsilon: float | None) -> None:
        spent = "" if epsilon is None else f" · ε {epsilon:.2f} spent"
        self.view.bars.update(self.bar, completed=done, count=f"{done}/{self.steps} steps{spent}")
        self.share = done / max(self.steps, 1)
        self.view.inner(self.name, done, self.steps)


class ProgressView:
    """A progress bar for all cells and one for each running cell; plain lines where stderr is no terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.bars = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("left"),
            console=self.console, transient=True,
        )  # fmt: skip
        self._all = self.bars.add_task("cells", total=None, count="")
        self._at_work: dict[str, CellProgress] = {}
        self._count = self._over = 0
        self._told = time.monotonic()
        self._live = False

    def stage(self, text: str) -> None:
        self._start()
        self.bars.update(self._all, description=f"{text} …")

    def began(self, cell: Cell, number: int, count: int) -> dpft.progress.Progress:
        self._start()
        self._forget(cell)
        self._count = count
        self._sum_up()
        name = f"cell {number} of {count}"
        if not self.console.is_terminal:
            _show.say(f"{name}: {cell.title}")
        self._at_work[cell.digest] = CellProgress(self, cell.title, name)
        return self._at_work[cell.digest]

    def inner(self, name: str, done: int, steps: int) -> None:
        self._sum_up()
        if not self.console.is_terminal and time.monotonic() - self._told > 10:
            self._told = time.monotonic()
            _show.say(f"{name}: step {done} of {steps}")

    def ended(self, outcome: Outcome) -> None:
        found = outcome.result
        what = f"failed: {outcome.error}" if found is None else f"{found.metric} {found.value:.4f} ({outcome.how})"
        line = f"{outcome.cell.title}: {what}"
        if self._live and self.console.is_terminal:
            self.bars.print(line, markup=False)
        else:
            _show.say(line)
        self._forget(outcome.cell)
        self._over += 1
        self._sum_up()

    def _sum_up(self) -> None:
        """Update the bar of all cells: finished cells plus the finished shares of running ones."""
        done = self._over + sum(one.share for one in self._at_work.values())
        of = f"{self._over}/{self._count} over"
        self.bars.update(self._all, description="cells", total=self._count, completed=done, count=of)

    def _forget(self, cell: Cell) -> None:
        known = self._at_work.pop(cell.digest, None)
        if known is not None:
            self.bars.remove_task(known.bar)

    def close(self) -> None:
        if self._live:
            self.bars.stop()
        self._live = False

    def _start(self) -> None:
        if not self._live and self.console.is_terminal:
            self.bars.start()
            self._live = True


def planned(comparison_plan: ComparisonPlan, folder: Path) -> None:
    """Print the plan on stdout."""
    groups: dict[tuple[str, str, float | None], list[PlannedCell]] = {}
    for one in comparison_plan.cells:
        groups.setdefault((one.cell.spec.rows_name, one.cell.arm, one.cell.epsilon), []).append(one)
    left = sum(not one.done for one in comparison_plan.cells)
    print(f"cells       {len(comparison_plan.cells)}, of which {left} are to be run")
    wide = max(len(f"{task} {arm}") for task, arm, _ in groups)
    for (task, arm, epsilon), group in groups.items():
        first = group[0]
        budget = "NOT PRIVATE" if epsilon is None else f"ε {epsilon:g}, σ {first.plan.noise:.4f}"
        memory = "" if first.mebibytes is None else f", {first.mebibytes:.0f} MiB"
        time_each = "" if first.seconds is None else f", about {duration(first.seconds)} each{memory}"
        search = "" if first.cell.trials is None else f", best of {first.cell.trials.count} trials (expected)"
        print(f"            {f'{task} {arm}':<{wide}}  {budget:<22} {first.plan.steps} steps, "
              f"{len(group)} seed{'s' if len(group) > 1 else ''}{search}{time_each}")  # fmt: skip
    for charge in comparison_plan.charges:
        whose = "a population that is not in the ledger yet" if charge.population is None else charge.population
        print(f"charge      {', '.join(charge.tasks)}: {charge.cells} private cells, {whose}")
        alone = f"ε {_show.upward(charge.epsilon)} at δ {charge.delta:g} for them together by composition"
        if charge.together is None or charge.filter is None:
            print(f"            {alone}; no bound with the runs before: {charge.reason}")
            continue
        print(f"            {alone}; ε {_show.upward(charge.together)} with all runs before")
        print(f"            ε {_show.upward(charge.filter)} should any have been chosen after a result (RDP filter)")
    if comparison_plan.seconds is not None:
        print(f"time        about {duration(comparison_plan.seconds)} on this machine, measured on placeholder texts")
    print(f"lies in     {folder}")


def duration(seconds: float) -> str:
    """A duration with two digits at most: 40 s, 12 min, 3.5 h, 12 h."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    if seconds < 6000:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36_000 else f"{round(seconds / 3600):,} h"


def table(lines: Sequence[ArmSummary]) -> None:
    """Print the results on stdout."""
    wide = max((len(f"{one.task} {one.arm}") for one in lines), default=0)
    for one in lines:
        budget = "NOT PRIVATE" if one.epsilon is None else f"ε {one.epsilon:g}"
        took = "" if one.seconds is None else f", {duration(one.seconds)} each"
        print(f"{f'{one.task} {one.arm}':<{wide}}  {budget:<12} {one.metric} {spread(one.mean, one.sd)}  n {one.n}, "
              f"{one.trained:,} parameters{took}")  # fmt: skip


def spread(mean: float, sd: float | None) -> str:
    return f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f}"


def consent(yes: bool, left: int) -> None:
    """Ask before any privacy is spent. Raises UserError without a terminal, typer.Abort where the answer is no."""
    if yes or not left:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UserError("a comparison asks before it spends, got no terminal to ask at; pass --yes, or --dry-run")
    typer.confirm(f"run {left} cells?", abort=True, err=True)


def plan_and_run(
    cells: Sequence[Cell],
    folder: ComparisonFolder,
    place: Placement,
    *,
    yes: bool,
    dry: bool,
    as_json: bool,
    grows: bool = False,
    executor: Executor | None = None,
) -> list[Outcome] | None:
    """Plan, ask and run; resume where the folder has these cells already. Returns None after a dry run.

    `executor`: runs the cells; None runs them in this process, one after the other.
    """
    from dpft.compare.planning import check_names, comparison_plan
    from dpft.compare.running.run_cells import LocalExecutor, run_all_cells
    from dpft.compare.running.work import Work
    from dpft.machine.memo import CachingMemo

    view, memo = ProgressView(), CachingMemo()
    try:
        check_names(cells, place)
        going_on = folder.has_same_plan(cells, grows=grows)
        if dry or not going_on:
            found = comparison_plan(cells, place, folder.found(), memo, view)
            view.close()
            if as_json and dry:
                _show.print_json({**found.to_json(), "comparison": str(folder.path)})
            elif not as_json:
                planned(found, folder.path)
            if dry:
                return None
            folder.check_disk_space(found.room)
            consent(yes, sum(not one.done for one in found.cells))
            folder.write(folder.extended_plan({**place.to_json(), **found.to_json()}))
        outcomes = run_all_cells(cells, Work(folder, place, memo), executor or LocalExecutor(), view)
    except KeyboardInterrupt:
        view.close()
        if folder.plan() is not None:
            _show.say(f"nothing is lost; to go on: dpft compare --to {shlex.quote(str(folder.path))}")
        raise
    finally:
        view.close()
    if not as_json and executor is None:
        shared = [f"{what} made {memo.made[what]} of {memo.asked[what]} times" for what in memo.made]
        print(f"shared      {', '.join(shared)}")
    return outcomes


def print_outcomes(outcomes: Sequence[Outcome], folder: Path, extra: dict[str, Any], as_json: bool) -> int:
    """Print the table, the failed cells and the folder. Returns exit code 1 where a cell failed."""
    from dpft.compare.summary import lines

    failed = [one for one in outcomes if one.result is None]
    if as_json:
        runs = [{"title": o.cell.title, "arm": o.cell.arm, "digest": o.cell.digest, "how": o.how, "error": o.error,
                 "result": None if o.result is None else o.result.to_json()} for o in outcomes]  # fmt: skip
        table_json = [line.to_json() for line in lines(outcomes)]
        _show.print_json({"comparison": str(folder), "cells": runs, "table": table_json, **extra})
        return 1 if failed else 0
    table(lines(outcomes))
    for one in failed:
        print(f"FAILED      {one.cell.title}: {one.error}")
    print(f"lies in     {folder}   (mean ± standard deviation over seeds, on the validation rows, without noise)")
    return 1 if failed else 0
