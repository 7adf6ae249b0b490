"""An audit of a run: runs the levels in order, at one confidence for all, and writes the report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from dpft.audit import bookkeeping, membership
from dpft.audit.evidence.report import Check, Level, Report
from dpft.audit.mechanism import checks
from dpft.audit.mechanism.driver import Mechanism
from dpft.errors import UserError
from dpft.inference import trained_model
from dpft.inference.trained_model import Trained
from dpft.progress import Progress
from dpft.runs.folder import Run, write
from dpft.spec import Machine

LEVELS: tuple[Level, ...] = get_args(Level)
CONFIDENCE = 0.99
_STAGES: dict[Level, str] = {
    "bookkeeping": "checking the records", "path": "attacking the mechanism", "model": "attacking the model",
}  # fmt: skip


def audit(
    run: str | Path,
    levels: Sequence[Level] = LEVELS,
    *,
    steps: int = checks.STEPS,
    confidence: float = CONFIDENCE,
    progress: Progress | None = None,
) -> Report:
    """Audit a finished run. Write audit.json to its folder; checks computed on real rows go to private/ alone.

    A correct run passes with probability `confidence` or more. Raises UserError for an unfinished run, and for a run
    without privacy unless only the level `model` is asked for.
    """
    if not 0.5 <= confidence < 1:
        raise UserError(f"confidence must lie in 0.5 to 1, got {confidence!r}; pass --confidence 0.99")
    if not 8 <= steps <= 10_000:
        raise UserError(f"steps must lie in 8 to 10000, got {steps!r}; pass --steps {checks.STEPS}")
    opened, card = _finished(Path(run))
    if opened.plan.budget is None and tuple(levels) != ("model",):
        raise UserError(
            "levels bookkeeping and path need a private run, got a run that is NOT PRIVATE; pass --level model"
        )
    random = [level for level in levels if level != "bookkeeping"]
    share = (1 - confidence) / max(1, len(random))
    work, progress = _Work(opened, card, steps, share), progress or Progress()
    found, seconds = list[Check](), dict[str, float]()
    for level in levels:
        progress.stage(_STAGES[level])
        started = time.monotonic()
        found += work.checks(level)
        seconds[level] = round(time.monotonic() - started, 1)
    progress.ended()
    budget = opened.plan.budget
    report = Report(
        opened.path.name, confidence, opened.plan.epsilon_upper, budget.delta if budget else None, tuple(found), seconds
    )
    _write(opened.path, report)
    return report


@dataclass
class _Work:
    """The levels of one audit. The model is loaded when a level first needs it."""

    run: Run
    card: dict[str, Any]
    steps: int
    risk: float

    def checks(self, level: Level) -> list[Check]:
        examples = int(self.card.get("units") or 1)
        work: dict[Level, Callable[[], list[Check]]] = {
            "bookkeeping": lambda: bookkeeping.checks(self.run, self.card),
            "path": lambda: checks.checks(self.trained, Mechanism(), examples, self.steps, self.risk),
            "model": lambda: membership.checks(self.trained, self.risk),
        }
        return work[level]()

    @cached_property
    def trained(self) -> Trained:
        """The trained model, in the precision of training."""
        return trained_model.load(self.run.path, machine=Machine(precision=self.card.get("precision", "auto")))


def named(level: str) -> tuple[Level, ...]:
    """The levels that a --level value names: one, or all."""
    return LEVELS if level == "all" else tuple(one for one in LEVELS if one == level)


def _finished(path: Path) -> tuple[Run, dict[str, Any]]:
    run = Run.open(path)
    card = run.read_json("privacy")
    if card is None or not (path / "adapter.safetensors").is_file():
        raise UserError(f"a run must be finished before it is audited, got {str(path)!r}; dpft resume {path}")
    return run, card


def _write(folder: Path, report: Report) -> None:
    public, everything = report.to_json(), report.to_json(private=True)
    write(folder / "audit.json", _text(public))
    if public != everything:
        write(folder / "private" / "audit.json", _text(everything), private=True)


def _text(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
