"""A charged search's own corner of a comparison's `private/`: what must never be shown, and where it stands."""

from __future__ import annotations

import dataclasses
import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpft.errors import UserError
from dpft.privacy.mechanism.plan import Plan
from dpft.runs.folder import private_folder, write
from dpft.spec import Spec

_STATE = "state.json"
_DRAWN = ("learning_rate", "clip")


@dataclass(frozen=True)
class OneTrial:
    """A trial's number from 0 on, what it drew, and the coins that break a tie."""

    number: int
    changes: Mapping[str, Any]
    tie: int


@dataclass(frozen=True)
class Best:
    """The best trial so far, by `value`, its merit, and then by coins. `run`: its folder in the corner, None
    where it failed."""

    value: float
    tie: int
    number: int
    run: str | None
    failure: str | None


@dataclass
class State:
    """Where a search stands. `id`: its identity in the ledger. `runs`: K, None until it is drawn. `head`, `time` and
    `population`: the ledger's as of the reservation. `runs_on`: encoder, precision and device of every trial.
    """

    id: str
    plan: Plan
    runs: int | None = None
    head: str = ""
    time: str = ""
    population: dict[str, Any] | None = None
    runs_on: str | None = None
    done: int = 0
    begun: OneTrial | None = None
    best: Best | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> State:
        """The State that was written down. Raises TypeError, KeyError or UserError on anything else."""
        begun, best = values["begun"], values["best"]
        return cls(**{
            **values, "plan": Plan.from_json(values["plan"]), "begun": None if begun is None else OneTrial(**begun),
            "best": None if best is None else Best(**best),
        })  # fmt: skip


class Corner:
    """A search's folder and its `state`. Every change of the state is on the disk before the call returns."""

    state: State

    def __init__(self, folder: Path, digest: str) -> None:
        self.path = folder / "private" / digest[:16]

    def open(self, plan: Plan) -> None:
        """Take up what is there; else begin, with the `plan` of the search."""
        for folder in (self.path.parent, self.path):
            private_folder(folder)
        file = self.path / _STATE
        try:
            self.state = State.from_json(json.loads(file.read_text())) if file.is_file() else self._begun(plan)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"a search goes on from its own state, got a damaged one in {str(self.path)!r}; restore that folder"
            ) from None
        self._keep()

    def _begun(self, plan: Plan) -> State:
        if any(not path.name.startswith(".") for path in self.path.iterdir()):
            raise UserError(
                f"a search goes on with the dpft that began it, got one of an earlier version in {str(self.path)!r}, "
                "whose promise would not hold; delete that folder and plan it anew with another --to"
            )
        return State(secrets.token_hex(16), plan)

    def drawn(self, runs: int, head: str, time: str, population: dict[str, Any] | None) -> None:
        """Keep K, and what the ledger says just after the reservation."""
        self._change(runs=runs, head=head, time=time, population=population)

    def check_runs_on(self, what: str) -> None:
        """Refuse, before a trial begins, another encoder or machine than earlier trials': all are one mechanism."""
        if self.state.runs_on not in (None, what):
            raise UserError(
                "all trials of a search must run on the same encoder, precision and device, got another; restore them"
            )
        self._change(runs_on=what)

    def begin(self, spec: Spec, tie: int) -> OneTrial:
        """The next trial, whose draws are `spec`'s."""
        trial = OneTrial(self.state.done, {name: getattr(spec, name) for name in _DRAWN}, tie)
        self._change(begun=trial)
        return trial

    def place(self, number: int) -> Path:
        """The folder of a trial: one for each number, so that equal draws are never taken for one run."""
        return self.path / f"trial-{number}"

    def end(self, run: Path | None, value: float, failure: str | None = None) -> None:
        """Count the trial that was begun, keep it if it is the best so far, and remove whichever is not."""
        trial, best = self.state.begun, self.state.best
        assert trial is not None
        if best is None or (value, trial.tie) > (best.value, best.tie):
            relative = None if run is None else str(run.relative_to(self.path))
            best = Best(value, trial.tie, trial.number, relative, failure)
        self._change(begun=None, done=trial.number + 1, best=best)
        for folder in self.path.glob("trial-*"):
            if folder != self.place(best.number):
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Delete all of the search but what was published. Raises UserError where something of it stays."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.exists():
            raise UserError(
                f"a search's other runs must be deleted, got some left in {str(self.path)!r}; delete that folder, or "
                "repeat the command"
            )

    def _change(self, **values: Any) -> None:
        self.state = dataclasses.replace(self.state, **values)
        self._keep()

    def _keep(self) -> None:
        write(self.path / _STATE, json.dumps(dataclasses.asdict(self.state)).encode(), private=True)
