"""Recover runs that were interrupted between the reservation in the ledger and the writing of run.json."""

from __future__ import annotations

from pathlib import Path

from dpft.errors import UserError
from dpft.privacy.ledger import Ledger, is_there
from dpft.runs.folder import Run
from dpft.runs.ledger_charges import terms


def has_ledger(run: Run) -> bool:
    """Whether the run's ledger exists, or the run needs none."""
    return run.plan.budget is None or is_there(run.ledger)


def taken_up(path: Path) -> Run | None:
    """Complete the files of a run that was interrupted just after its reservation. None if nothing was reserved."""
    run = Run.intended(path)
    head = None if run is None else _head(run)
    return None if run is None or head is None else run.reserved(head)


def broken_off(path: Path) -> Run:
    """Open the run at `path`, also if it was killed just after its reservation. Raises UserError."""
    begun = None if (path / "run.json").is_file() else Run.intended(path)
    if begun is None or taken_up(path) is not None:
        return Run.open(path)
    check_there(begun)
    with Ledger(begun.ledger) as book:
        if book.reservation(begun.id) is not None:
            raise UserError(
                f"a run must resume as it was reserved, got another plan in {str(path / 'intent.json')!r}; "
                "restore that file"
            )
    raise UserError(
        f"a run must be reserved before it can resume, got {str(path)!r}, which is not; nothing of it is spent: "
        "delete that folder and train again"
    )


def check_there(run: Run) -> None:
    """Raise UserError if the run's ledger is missing."""
    if not has_ledger(run):
        raise UserError(f"a run resumes with its ledger, got none at {str(run.ledger)!r}; restore that file")


def _head(run: Run) -> str | None:
    """The head of the ledger that holds this reservation; None if it does not; empty without privacy."""
    if run.plan.budget is None:
        return ""
    if not is_there(run.ledger):
        return None
    with Ledger(run.ledger) as book:
        return book.head() if book.reservation(run.id) == terms(run.plan, run.id) else None
