"""A charged search's own corner of a comparison's `private/`: what must never be shown, and where it stands."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpft.privacy.plan import Plan
from dpft.run import private_folder, write
from dpft.spec import Spec, UserError

_STATE = "state.json"
_DRAWN = ("learning_rate", "clip")


@dataclass(frozen=True)
class OneTrial:
    """A trial's number from 0 on, what it drew, and the coins that break a tie."""

    number: int
    changes: Mapping[str, Any]
    tie: int


class Corner:
    """`id`: the search's identity in the ledger. `runs`: K, None until it is drawn. All is written down at once."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.path = folder / "private" / digest[:16]
        self._state: dict[str, Any] = {}

    def open(self, plan: Plan) -> None:
        """Take up what is there; else begin, with the `plan` of the search."""
        for folder in (self.path.parent, self.path):
            private_folder(folder)
        file = self.path / _STATE
        try:
            self._state = json.loads(file.read_text()) if file.is_file() else self._begun(plan)
            self.plan = Plan.from_json(self._state["plan"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"a search goes on from its own state, got a damaged one in {str(self.path)!r}; restore that folder"
            ) from None
        self._keep()

    def _begun(self, plan: Plan) -> dict[str, Any]:
        if any(not path.name.startswith(".") for path in self.path.iterdir()):
            raise UserError(
                f"a search goes on with the dpft that began it, got one of an earlier version in {str(self.path)!r}, "
                "whose promise would not hold; delete that folder and plan it anew with another --to"
            )
        return {"id": secrets.token_hex(16), "plan": plan.to_json(), "runs": None, "head": "", "time": "", "done": 0,
                "population": None, "begun": None, "best": None, "ran_on": None, "failure": None}  # fmt: skip

    @property
    def id(self) -> str:
        return str(self._state["id"])

    @property
    def delta(self) -> float:
        assert self.plan.budget is not None
        return self.plan.budget.delta

    @property
    def runs(self) -> int | None:
        found: int | None = self._state["runs"]
        return found

    @property
    def head(self) -> str:
        """The ledger's, just after the reservation."""
        return str(self._state["head"])

    @property
    def time(self) -> str:
        """Of the reservation, as the ledger has it."""
        return str(self._state["time"])

    @property
    def population(self) -> dict[str, Any] | None:
        """What it had spent as of the reservation."""
        found: dict[str, Any] | None = self._state["population"]
        return found

    @property
    def done(self) -> int:
        return int(self._state["done"])

    @property
    def begun(self) -> OneTrial | None:
        """The trial that was begun and is not over."""
        return None if self._state["begun"] is None else OneTrial(**self._state["begun"])

    @property
    def best(self) -> Path | None:
        """The run folder of the best trial so far."""
        found = self._state["best"]
        return None if found is None or found["run"] is None else self.path / found["run"]

    @property
    def failure(self) -> str | None:
        """Why the best trial has no run."""
        found: str | None = self._state["failure"]
        return found

    def drawn(self, runs: int, head: str, time: str, population: dict[str, Any] | None) -> None:
        self._state |= {"runs": runs, "head": head, "time": time, "population": population}
        self._keep()

    def begin(self, spec: Spec, tie: int) -> OneTrial:
        """The next trial, whose draws are `spec`'s."""
        trial = OneTrial(self.done, {name: getattr(spec, name) for name in _DRAWN}, tie)
        self._state["begun"] = vars(trial)
        self._keep()
        return trial

    def place(self, trial: OneTrial) -> Path:
        """The folder of a trial: one for each number, so that equal draws are never taken for one run."""
        return self.path / f"trial-{trial.number}"

    def end(self, found: tuple[Path | None, float, str]) -> None:
        """Count the trial that was begun, keep it if it is the best so far, and remove whichever is not.

        Order: by value, of equal ones by the coins. Raises UserError where a trial ran on another encoder or machine
        than those before: all must be the same mechanism.
        """
        trial, (run, value, about) = self.begun, found
        assert trial is not None
        if run is not None and self._state["ran_on"] not in (None, about):
            raise UserError(
                "all trials of a search must run on the same encoder, precision and device, got another; restore them"
            )
        before = self._state["best"]
        rank = [value, trial.tie]
        better = before is None or rank > [before["value"], before["tie"]]
        if better:
            relative = None if run is None else str(run.relative_to(self.path))
            self._state["best"] = {"value": value, "tie": trial.tie, "number": trial.number, "run": relative}
            self._state["failure"] = about if run is None else None
        if run is not None:
            self._state["ran_on"] = about
        self._state |= {"begun": None, "done": trial.number + 1}
        self._keep()
        kept = self.place(OneTrial(self._state["best"]["number"], {}, 0))
        for folder in self.path.glob("trial-*"):
            if folder != kept:
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Delete all of the search but what was published. Raises UserError where something of it stays."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.exists():
            raise UserError(
                f"a search's other runs must be deleted, got some left in {str(self.path)!r}; delete that folder, or "
                "repeat the command"
            )

    def _keep(self) -> None:
        write(self.path / _STATE, json.dumps(self._state).encode(), private=True)
