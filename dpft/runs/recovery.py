"""Recover runs that were interrupted between the reservation in the ledger and the writing of run.json."""

from __future__ import annotations

from pathlib import Path

from dpft.errors import UserError
from dpft.privacy.ledger import Ledger, ledger_exists
from dpft.runs.folder import Run
from dpft.runs.ledger_charges import reservation_terms


def has_ledger(run: Run) -> bool:
    """Whether the run's ledger exists, or the run needs none."""
    return run.plan.budget is None or ledger_exists(run.ledger)


def recover_reserved(path: Path) -> Run | None:
    """Complete the files of a run that was interrupted just after its reservation. None if nothing was reserved."""
    run = Run.intended(path)
    head = None if run is None else _head(run)
    return None if run is None or head is None else run.reserved(head)


def open_interrupted(path: Path) -> Run:
    """Open the run at `path`, also if it was killed just after its reservation. Raises UserError."""
    begun = None if (path / "run.json").is_file() else Run.intended(path)
    if begun is None or recover_reserved(path) is not None:
        return Run.open(path)
    check_there(begun)
    with Ledger(begun.ledger) as ledger:
        if ledger.reservation(begun.id) is not None:
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
    if not ledger_exists(run.ledger):
        return None
    with Ledger(run.ledger) as ledger:
        return ledger.head() if ledger.reservation(run.id) == reservation_terms(run.plan, run.id) else None
