"""The folder of a charged search below a comparison's `private/`: its secret state and its best trial so far."""

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
    """A trial: its number from 0, the hyper-parameters it drew, and the coins that break a tie."""

    number: int
    changes: Mapping[str, Any]
    tie: int


@dataclass(frozen=True)
class Best:
    """The best trial so far, by `value` (its merit), then by coins. `run`: its folder, None where it failed."""

    value: float
    tie: int
    number: int
    run: str | None
    failure: str | None


@dataclass
class State:
    """The state of a search. `id`: its identity in the ledger. `runs`: K, None until drawn. `head`, `time` and
    `population`: the ledger's at the reservation. `runs_on`: encoder, precision and device of every trial.
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
        """The State from its JSON. Raises TypeError, KeyError or UserError on anything else."""
        begun, best = values["begun"], values["best"]
        return cls(**{
            **values, "plan": Plan.from_json(values["plan"]), "begun": None if begun is None else OneTrial(**begun),
            "best": None if best is None else Best(**best),
        })  # fmt: skip


class SearchFolder:
    """A search's folder and `state`. Every change of the state is on the disk before the call returns."""

    state: State

    def __init__(self, folder: Path, digest: str) -> None:
        self.path = folder / "private" / digest[:16]

    def open(self, plan: Plan) -> None:
        """Load the existing state, else begin a search with `plan`."""
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
        """Store K, and the ledger's values just after the reservation."""
        self._change(runs=runs, head=head, time=time, population=population)

    def check_runs_on(self, what: str) -> None:
        """Raise UserError where encoder or machine differ from earlier trials: all trials must be one mechanism."""
        if self.state.runs_on not in (None, what):
            raise UserError(
                "all trials of a search must run on the same encoder, precision and device, got another; restore them"
            )
        self._change(runs_on=what)

    def begin(self, spec: Spec, tie: int) -> OneTrial:
        """Begin the next trial, with the hyper-parameters drawn in `spec`."""
        trial = OneTrial(self.state.done, {name: getattr(spec, name) for name in _DRAWN}, tie)
        self._change(begun=trial)
        return trial

    def place(self, number: int) -> Path:
        """The folder of a trial: one for each number, so that equal draws are never the same run."""
        return self.path / f"trial-{number}"

    def end(self, run: Path | None, value: float, failure: str | None = None) -> None:
        """Count the trial as finished, keep it if it is the best so far, and remove the other one."""
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
        """Delete all of the search but the published run. Raises UserError where something is left."""
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
