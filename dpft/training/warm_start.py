"""Warm starts (`--from RUN`): begin with the weights of another run (as WARP after MNLI, Hambardzumyan et al. 2021).

The new model contains what the first run, its start, has learned. So a private start on the same people must be in the
same ledger, where both runs add up. A start without privacy must be on other people's data, and the privacy card says
what that means for them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from dpft import methods
from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.models.adapted import AdaptedModel
from dpft.privacy.ledger import Ledger
from dpft.runs.folder import Run, adapter_digest
from dpft.runs.past_data import PastData
from dpft.runs.statements import stated
from dpft.spec import HEAD, Spec, canonical_json


@dataclass(frozen=True)
class Start:
    """A finished run to start from: its folder, its adapter (`tensors`, metadata `about`) and its privacy card."""

    run: Run
    tensors: dict[str, Tensor]
    about: dict[str, str]
    card: dict[str, Any]

    @property
    def private(self) -> bool:
        return self.run.plan.budget is not None

    def put(self, adapted: AdaptedModel, spec: Spec, labels: tuple[str, ...]) -> bool:
        """Load the method's tensors into `adapted`, and the head if its labels match (then returns True).

        Raises UserError if the encoder differs or a tensor has another name or shape.
        """
        if adapted.model.digest != self.about.get("backbone_sha256"):
            _refuse("must be of the same encoder", f"{self.run.spec.model!r} for {spec.model!r}", "pass its --model")
        own, kind = adapted.state(), canonical_json(adapted.objective.kind)
        learned = {n: t for n, t in own.items() if not n.startswith(HEAD)}
        theirs = {n: t for n, t in self.tensors.items() if not n.startswith(HEAD)}
        odd = sorted(n for n in {*learned, *theirs} if _shape(learned, n) != _shape(theirs, n))
        if odd:
            _refuse("must have the same tensors", f"another {odd[0]!r}", "pass its --method, --option and --model")
        head = self.tensors.keys() == own.keys() and all(t.shape == own[n].shape for n, t in self.tensors.items())
        head = head and self.same_answers(spec, labels) and self.about.get("kind", kind) == kind
        adapted.load({**own, **(self.tensors if head else theirs)})
        return head

    def same_answers(self, spec: Spec, labels: tuple[str, ...]) -> bool:
        """Whether its head reads the same representation and has the same labels."""
        return tuple(json.loads(self.about["labels"])) == labels and self.run.spec.representation == spec.representation

    def keep(self, run: Run, head: bool) -> None:
        """Write start.json: what `run` began with. On a resume, raise UserError if that has changed."""
        about = {"run": str(self.run.path.resolve()), "id": self.run.id, "adapter_sha256": adapter_digest(self.run),
                 "head_taken": head}  # fmt: skip
        known = run.read_json("start")
        if known is not None and known["adapter_sha256"] != about["adapter_sha256"]:
            _refuse("must be as it was when this run began", "another adapter", f"restore {str(self.run.path)!r}")
        run.write_json("start", about)

    def stated(self, population: dict[str, Any] | None, stated_public: bool) -> dict[str, Any]:
        """What the privacy card says of this start.

        population: the new run's population, as the ledger holds it. stated_public: that the start's rows are other
        people's is only a statement of the user (--from-public); nothing has shown it.
        """
        spec = self.run.spec
        about: dict[str, Any] = {"task": spec.task, "id": self.run.id, "adapter_sha256": adapter_digest(self.run)}
        if "start" in self.card:
            about["start"] = self.card["start"]
        if stated_public:
            about["stated_public"] = True
        if not self.private:
            who = STATED if stated_public else "none of whose records is known to be one of this run's"
            says = f"started from a run on {spec.task} that is NOT PRIVATE: that start had no privacy for its own data"
            if population is not None:
                says += f", {who}; the promise above is for the rows of this run alone"
            return {**about, "private": False, "statement": says}
        mine, theirs = (None if one is None else one.get("id") for one in (population, self.card.get("population")))
        both = mine is not None and mine == theirs
        says = (
            "started from a private run on the same population: `population` counts both"
            if both
            else f"started from a private run on {spec.task}, a second population, whose promise is its own: "
            f"{stated(self.card)}"
        )
        if stated_public and not both:
            says += f"; its rows are {STATED}"
        return {**about, "private": True, "same_population": both, "statement": says}


STATED = "other people's by the word of whoever started this run (--from-public), which nothing here shows"


def _shape(tensors: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def read(spec: Spec) -> Start | None:
    """The run that `spec` starts from; None if it starts from no run. Raises UserError if that run does not fit."""
    if spec.start is None:
        return None
    run = Run.open(Path(spec.start))
    found, card = run.read_tensors("adapter"), run.read_json("privacy")
    if found is None or card is None:
        _refuse("must be finished", f"{spec.start!r}, which is not", f"dpft resume {spec.start}")
    if card.get("adapter_sha256") != adapter_digest(run):
        _refuse("must have the adapter that its card names", "another", f"restore {spec.start!r}")
    if run.spec.canaries:
        _refuse("must be for use", "one with canaries, which is for audits", "train it without --canaries")
    for name in ("method", "seed"):
        ours, theirs = getattr(spec, name), getattr(run.spec, name)
        if ours != theirs:
            _refuse(f"must be of the same {name}", f"{theirs!r} for {ours!r}", f"pass --{name} {theirs}")
    if methods.load(spec.method, spec.options) != methods.load(run.spec.method, run.spec.options):
        _refuse("must have the same options", f"{run.spec.options} for {spec.options}", "pass its --option")
    return Start(run, *found, card)


def check_people(start: Start, spec: Spec, ledger: Ledger | None, rows: Examples) -> None:
    """Refuse a start that would void a private run's promise: trained on its rows, but not counted in this ledger.

    The start's private/rows.json recognises its rows, wherever its data are now. If that file, or the one of an earlier
    start, is missing, nothing shows that the rows are other people's: then the user must state it, by
    `spec.start_public`. Raises UserError.
    """
    if ledger is None:
        return
    seen, run = PastData.read(start.run), start.run
    for part in () if seen is None else seen.parts:
        if not _counted(ledger, part.run) and part.matches(rows):
            if run.plan.budget is None or part.run != run.id:
                _refuse("of a private run must not have seen its rows", "one that is NOT PRIVATE on the same data",
                        "train the start within a budget and in the same ledger, or on other data")  # fmt: skip
            _refuse("on the same data must be in the same ledger", f"one that is in {run.ledger}", "pass that --ledger")
    shared = seen is not None and any(p.shares(rows) for p in seen.parts if not _counted(ledger, p.run))
    if shared and not spec.start_public:
        _refuse("of a private run must have seen none of its rows uncharged", "one that shares some texts with them",
                "remove these, or pass --from-public RUN to state that they are other people's")  # fmt: skip
    shown = seen.whole if seen is not None else _counted(ledger, run.id) and run.spec.start is None
    if not shown and not spec.start_public:
        _refuse("must be known to have seen other rows", "one that has kept nothing by which to tell (it is of an "
                "earlier version, or without its private/ folder)", "pass --from-public RUN to state that its rows are "
                "other people's")  # fmt: skip


def keep_past_data(run: Run, start: Start | None, rows: Examples) -> None:
    """Write private/rows.json: by which rows the weights of `run` were trained."""
    before = None if start is None else PastData.read(start.run)
    PastData.of(run.id, rows, before, begun=start is not None).keep(run)


def check_past_data(run: Run, start: Start | None, rows: Examples) -> None:
    """Refuse rows that the run did not begin with. Raises UserError.

    If the run was killed before its first step and private/rows.json is missing, write it.
    """
    seen = PastData.read(run)
    if seen is not None:
        seen.check_same(rows)
    elif run.plan.budget is None and (run.path / "checkpoints").is_dir():
        raise UserError(
            f"a run must be able to recognise its own rows, got no private/rows.json in {str(run.path)!r}; "
            "restore that file, or train again"
        )
    else:
        keep_past_data(run, start, rows)


def _counted(ledger: Ledger, run: str) -> bool:
    """Whether the ledger holds a reservation of this run or search."""
    return ledger.reservation(run) is not None or ledger.search(run) is not None


def _refuse(rule: str, found: str, remedy: str) -> NoReturn:
    raise UserError(f"the run to start --from {rule}, got {found}; {remedy}")
