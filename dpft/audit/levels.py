"""An audit of a run: its levels in order, one confidence over all of them, and what is written down."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path as File
from typing import Any, get_args

from dpft import trained
from dpft.audit import bookkeeping, membership, whitebox
from dpft.audit.path import Path
from dpft.audit.report import Check, Level, Report
from dpft.progress import Progress
from dpft.run import Run, write
from dpft.spec import Machine, UserError
from dpft.trained import Trained

LEVELS: tuple[Level, ...] = get_args(Level)
CONFIDENCE = 0.99


def audit(
    run: str | File,
    levels: Sequence[Level] = LEVELS,
    *,
    steps: int = whitebox.STEPS,
    confidence: float = CONFIDENCE,
    progress: Progress | None = None,
) -> Report:
    """Audit a finished run, and write audit.json into its folder, and what concerns people into private/ alone.

    With probability `confidence` a sound run passes. Raises UserError for a run that is unfinished, or that promises
    nothing where a promise would be audited.
    """
    if not 0.5 <= confidence < 1:
        raise UserError(f"confidence must lie in 0.5 to 1, got {confidence!r}; pass --confidence 0.99")
    if not 8 <= steps <= 10_000:
        raise UserError(f"steps must lie in 8 to 10000, got {steps!r}; pass --steps {whitebox.STEPS}")
    opened, card = _finished(File(run))
    if opened.plan.budget is None and tuple(levels) != ("model",):
        raise UserError(
            "books and path are audited beside a promise, got a run that is NOT PRIVATE; pass --level model"
        )
    random = [level for level in levels if level != "bookkeeping"]
    share = (1 - confidence) / max(1, len(random))
    found, seconds = _run(opened, card, levels, steps, share, progress or Progress())
    budget = opened.plan.budget
    report = Report(
        opened.path.name, confidence, opened.plan.epsilon_upper, budget.delta if budget else None, tuple(found), seconds
    )
    _write(opened.path, report)
    return report


def _run(
    run: Run, card: dict[str, Any], levels: Sequence[Level], steps: int, risk: float, progress: Progress
) -> tuple[list[Check], dict[str, float]]:
    """Each level's checks, and how long it took."""
    examples, found, seconds = int(card.get("examples") or 1), list[Check](), dict[str, float]()
    loaded: list[Trained] = []

    def model() -> Trained:
        if not loaded:
            loaded.append(trained.load(run.path, machine=Machine(precision=card.get("precision", "auto"))))
        return loaded[0]

    work: dict[Level, tuple[str, Callable[[], list[Check]]]] = {
        "bookkeeping": ("reading the books", lambda: bookkeeping.checks(run, card)),
        "path": ("attacking the path", lambda: whitebox.checks(model(), Path(), examples, steps, risk)),
        "model": ("attacking the model", lambda: membership.checks(model(), risk)),
    }
    for level in levels:
        told, checks = work[level]
        progress.stage(told)
        started = time.monotonic()
        found += checks()
        seconds[level] = round(time.monotonic() - started, 1)
    progress.ended()
    return found, seconds


def named(level: str) -> tuple[Level, ...]:
    """The levels that a word names: one of them, or all."""
    return LEVELS if level == "all" else tuple(one for one in LEVELS if one == level)


def _finished(path: File) -> tuple[Run, dict[str, Any]]:
    run = Run.open(path)
    card = run.read_json("privacy")
    if card is None or not (path / "adapter.safetensors").is_file():
        raise UserError(f"a run must be finished before it is audited, got {str(path)!r}; dpft resume {path}")
    return run, card


def _write(folder: File, report: Report) -> None:
    public, everything = report.to_json(), report.to_json(private=True)
    write(folder / "audit.json", _text(public))
    if public != everything:
        (folder / "private").mkdir(mode=0o700, exist_ok=True)
        write(folder / "private" / "audit.json", _text(everything))
        (folder / "private" / "audit.json").chmod(0o600)


def _text(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
