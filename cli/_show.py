"""Output for a person: the progress of a run on stderr, its outcome on stdout."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.status import Status

import dpft.progress

if TYPE_CHECKING:
    from dpft.runs.result import Result


def say(line: str = "") -> None:
    """One line for a person, on stderr."""
    print(line, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """One JSON object, on stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


class Bar(dpft.progress.Progress):
    """A bar with the ε spent and the time left; plain lines every ten seconds where stderr is no terminal.

    No line is printed before the run's folder exists, so that a refused run prints its error alone. `notes` are printed
    when it exists.
    """

    def __init__(self, notes: Sequence[str] = ()) -> None:
        self.notes = list(notes)
        self.console = Console(stderr=True, highlight=False)
        self.run: Path | None = None
        self._status: Status | None = None
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._steps = self._first = 0
        self._started = self._told = time.monotonic()

    def created(self, path: Path) -> None:
        self._quiet()
        self.run = path
        for note in self.notes:
            say(note)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage(self, text: str) -> None:
        self._quiet()
        if self.console.is_terminal:
            self._status = self.console.status(f"{text} …")
            self._status.start()
        elif self.run:
            say(f"{text} …")

    def started(self, done: int, steps: int) -> None:
        self._quiet()
        self._steps, self._first, self._started = steps, done, time.monotonic()
        if not self.console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("steps · {task.fields[spent]} ·"),
            TimeRemainingColumn(), TextColumn("left"), console=self.console, speed_estimate_period=120,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=steps, completed=done, spent="ε …")
        self._bar.start()

    def stepped(self, done: int, epsilon: float | None) -> None:
        spent = "NOT PRIVATE" if epsilon is None else f"ε {math.ceil(epsilon * 100) / 100:.2f} spent"
        if self._bar:
            self._bar.update(self._task, completed=done, spent=spent)
        elif time.monotonic() - self._told > 10:
            self._told = time.monotonic()
            left = (self._told - self._started) / (done - self._first) * (self._steps - done)
            say(f"step {done} of {self._steps} · {spent} · {left:.0f} s left")

    def ended(self) -> None:
        self._quiet()

    def broken_off(self) -> None:
        """After an interrupted run: print how to resume it."""
        self._quiet()
        if self.run and not (self.run / "result.json").exists():
            say(f"nothing is lost; to finish it: dpft resume {shlex.quote(str(self.run))}")

    def _quiet(self) -> None:
        if self._status:
            self._status.stop()
        if self._bar:
            self._bar.stop()
        self._status = self._bar = None


@contextlib.contextmanager
def counter(verb: str, things: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that counts things: call the yielded function with how many are done, and of how many."""
    bar = Progress(
        TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn(f"{things} ·"), TimeRemainingColumn(),
        TextColumn("left"), console=Console(stderr=True), disable=not sys.stderr.isatty(),
    )  # fmt: skip
    task = bar.add_task("")
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)


def follow(bar: Bar, work: Callable[[], Result], as_json: bool) -> None:
    """Run `work` under `bar`, then print its result; in distributed training the first rank does."""
    from dpft.exports import needs_code
    from dpft.machine.launch import is_silent
    from dpft.runs.folder import Run

    try:
        result = work()
    finally:
        bar.broken_off()
    if is_silent():
        return
    if as_json:
        print_json(result.to_json())
    else:
        run = Run.open(result.path)
        writes = run.spec.representation == "none"
        outcome(result.to_json(), run.read_json("privacy") or {}, with_code=needs_code(run.spec), writes=writes)


def together(population: dict[str, Any]) -> str:
    """The epsilon spent by all runs on a population, in one line."""
    runs = f"{population['runs']} run{'' if population['runs'] == 1 else 's'}"
    if population.get("reason"):
        return f"this population: no bound over {runs}: {population['reason']}"
    both = [upward(population[name]["epsilon"]) for name in ("composition", "filter")]
    spent = (
        f"ε {both[0]}"
        if population["runs"] < 2
        else f"ε {both[0]} if all were planned, {both[1]} if chosen by results,"
    )
    return (
        f"this population: {spent} over {runs} at δ {population['delta']:g} (dpft ledger show {population['id'][:6]})"
    )


_BESIDE = 4


def beside(further: dict[str, float]) -> str:
    """The further metrics in parentheses; the first few of many."""
    listed = ", ".join(f"{name} {value:.4f}" for name, value in list(further.items())[:_BESIDE])
    more = f", {len(further) - _BESIDE} more in result.json" if len(further) > _BESIDE else ""
    return f" ({listed}{more})" if listed else ""


def by_type(figures: dict[str, float]) -> list[str]:
    """A table of F1, precision and recall by entity type; no lines without such figures."""
    names = [name.removesuffix("_f1") for name in figures if name.endswith("_f1")]
    kinds = [name for name in names if f"{name}_precision" in figures]
    if not kinds:
        return []
    width = max(map(len, kinds)) + 2
    rows = [(name, *(figures[f"{name}_{of}"] for of in ("precision", "recall", "f1"))) for name in kinds]
    head = f"{'':<{width}}{'precision':>10}{'recall':>10}{'F1':>10}"
    return [head, *(f"{name:<{width}}{p:>10.4f}{r:>10.4f}{f:>10.4f}" for name, p, r, f in rows)]


_CLASSES = 6


def by_class(classes: dict[str, Any]) -> list[str]:
    """Figures by class: the largest class, macro-F1, and recalls, the lowest ones where there are many."""
    if not classes:
        return []
    largest, recall = classes["largest"], classes["recall"]
    lowest = sorted(recall.items(), key=lambda one: one[1])[:_CLASSES] if len(recall) > _CLASSES else recall.items()
    listed = ", ".join(f"{name} {value:.4f}" for name, value in lowest)
    many = f"the lowest of {len(recall)} classes: " if len(recall) > _CLASSES else ""
    lines = [
        f"{largest['share']:.4f} of these rows are of the largest class ({largest['label']}); macro-F1 "
        f"{classes['f1_macro']:.4f}",
        f"recall {many}{listed}",
    ]
    never = [name for name, value in recall.items() if value == 0]
    if never:
        lines.append(
            f"never found: {', '.join(never[:_CLASSES])}; --class-weights balanced --shares {never[0]}=…,… finds more"
        )
    return lines


def upward(epsilon: float | None) -> str:
    """An epsilon with four digits, rounded up."""
    from dpft.runs.privacy_card import rounded_up

    return "without bound" if epsilon is None else rounded_up(epsilon)


def _took(seconds: float | None) -> str:
    return "training time not shown" if seconds is None else f"{seconds:.0f} s of training"


def outcome(result: dict[str, Any], card: dict[str, Any], *, with_code: bool, writes: bool = False) -> None:
    """Print a run's result, its privacy statement, its folder and the next commands."""
    from dpft.runs.statements import stated

    run = shlex.quote(result["path"])
    if result["value"] is None:
        print(f"no metric   there is no validation set; dpft evaluate {run} --data FILE")
    else:
        print(f"{result['metric']:<12}{result['value']:.4f} on the validation rows{beside(result['further'])}")
        for line in by_class(result.get("classes") or {}):
            print(f"            {line}")
    if card["private"]:
        print(f"privacy     {stated(card)}")
        print(
            f"            noise multiplier σ {card['noise']:.4f}, clipping norm C {card['clip']:g}, "
            f"sampling rate q {card['rate']:.5f}, {card['steps_charged']} steps, Poisson sampling; "
            f"upper bound by {card['accountant']}"
        )
        if card["population"]:
            print(f"            {together(card['population'])}")
        print(f"covers      {card['covers'][0]}")
        print("not covered validation figures, hyper-parameter choice, side channels (privacy.json lists all)")
    else:
        print(f"privacy     {stated(card)}")
    print(
        f"cost        {result['trainable']:,} trainable parameters, {_took(result['seconds'])} in "
        f"{result['precision']} on {result['device']}"
    )
    print(f"lies in     {result['path']}")
    code = " --with-code" if with_code else ""
    first = f"generate {run} --count 200 --to FILE.jsonl" if writes else f'predict {run} --text "your text"'
    print(f"next        dpft {first}   |   dpft export {run} --to DIR{code}")
