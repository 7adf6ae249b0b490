"""Runs whose making was broken off: between what they meant to reserve and run.json, which says that they did."""

from __future__ import annotations

from pathlib import Path

from dpft.errors import UserError
from dpft.privacy.ledger import Ledger, is_there
from dpft.runs.folder import Run
from dpft.runs.ledger_charges import terms


def has_ledger(run: Run) -> bool:
    """Whether the ledger of a run is there, where it needs one."""
    return run.plan.budget is None or is_there(run.ledger)


def taken_up(path: Path) -> Run | None:
    """The run at `path` whose making was broken off once it was reserved, now whole; None where nothing was."""
    run = Run.intended(path)
    head = None if run is None else _head(run)
    return None if run is None or head is None else run.reserved(head)


def broken_off(path: Path) -> Run:
    """The run at `path`, also where it was killed just after its reservation."""
    begun = None if (path / "run.json").is_file() else Run.intended(path)
    if begun is None or taken_up(path) is not None:
        return Run.open(path)
    check_there(begun)
    with Ledger(begun.ledger) as book:
        if book.reservation(begun.id) is not None:
            raise UserError(
                f"a run resumes as it was reserved, got another plan in {str(path / 'intent.json')!r}; "
                "restore that file"
            )
    raise UserError(
        f"a run resumes once it is reserved, got {str(path)!r}, which was broken off before; nothing of it is spent: "
        "delete that folder and train again"
    )


def check_there(run: Run) -> None:
    """Refuse a run whose ledger is gone."""
    if not has_ledger(run):
        raise UserError(f"a run resumes with its ledger, got none at {str(run.ledger)!r}; restore that file")


def _head(run: Run) -> str | None:
    """The head of the ledger that holds this very reservation; None where none does, empty where none is needed."""
    if run.plan.budget is None:
        return ""
    if not is_there(run.ledger):
        return None
    with Ledger(run.ledger) as book:
        return book.head() if book.reservation(run.id) == terms(run.plan, run.id) else None
