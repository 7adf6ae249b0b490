"""train(), resume() and load(): the line from a spec to a trained model and back."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpft import evaluate, methods, models, tasks
from dpft.adapt import adapt, settle
from dpft.audit import planting
from dpft.audit.bookkeeping import adapter_digest
from dpft.batch import Batch
from dpft.card import NOT_PRIVATE, Charge, card, rounded_up
from dpft.checkpoint import Checkpoints
from dpft.hardware import Hardware
from dpft.launch import launched, refuse_restart
from dpft.methods._method import Adapted
from dpft.privacy.accountants import epsilon_curve
from dpft.privacy.ledger import Claim, Ledger, Reservation, default_ledger_place, is_there
from dpft.privacy.ledger.summary import summarize
from dpft.privacy.plan import Plan, make_plan
from dpft.privacy.ranks import ALONE, Team
from dpft.privacy.sampler import poisson_batches
from dpft.privacy.secret import Secret
from dpft.privacy.step import PlainStep, PrivateStep, SharedStep
from dpft.progress import Progress
from dpft.run import Run
from dpft.spec import Machine, Schedule, Spec, UserError, canonical_json
from dpft.tasks.encode import Encoded, encode
from dpft.tasks.microbatch import microbatches

WARMUP = 0.06


@dataclass(frozen=True)
class Result:
    """What a run found. `value`: `metric` on the validation rows, without noise. `epsilon`: None if not private."""

    path: Path
    metric: str
    value: float
    epsilon: float | None
    delta: float | None
    steps: int
    trainable: int
    seconds: int
    precision: str
    device: str

    def to_json(self) -> dict[str, Any]:
        """A plain dict, for result.json and --json; `from_json` reads it back."""
        privacy = NOT_PRIVATE if self.epsilon is None else f"({rounded_up(self.epsilon)}, {self.delta!r})"
        return {**asdict(self), "path": str(self.path), "private": self.epsilon is not None, "privacy": privacy}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Result:
        """The Result that `to_json` wrote. Raises UserError where a field is missing."""
        try:
            return cls(**{f.name: values[f.name] for f in fields(cls)})
        except KeyError as error:
            raise UserError(f"result.json must hold {error}, got none; restore the file") from None


@dataclass(frozen=True)
class Prepared:
    """All that has to be there before the first unit of privacy is spent."""

    task: tasks.Task
    train: Encoded
    validation: Encoded
    adapted: Adapted
    hardware: Hardware


def train(
    spec: Spec,
    *,
    runs: str | Path = "runs",
    ledger: str | Path | None = None,
    population: str | None = None,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> Result:
    """Fine-tune `spec.model` on `spec.task` within `spec.budget`, into a new folder below `runs`.

    Everything that can be refused is refused with UserError before anything is written to the ledger. `ledger`, a
    path or a URL, defaults to DPFT_LEDGER or a file in the user's data folder. `population` names whose data these
    are: the run is charged to it, and to every population that the data are known to be of.
    """
    asked = functools.partial(_train, spec, Path(runs), ledger, population, progress or Progress())
    return launched(asked, machine or Machine())


def _train(
    spec: Spec, runs: Path, ledger: str | Path | None, population: str | None, progress: Progress, ranks: Team,
    machine: Machine,
) -> Result:  # fmt: skip
    refuse_restart()
    method = methods.load(spec.method, spec.options)
    if spec.learning_rate is None:
        spec = replace(spec, learning_rate=method.learning_rate)
    tasks.check(spec)
    settled = settle(spec, machine)
    models.check(spec.model)
    progress.stage("reading the data")
    own = tasks.load(spec)
    task = planting.planted(own, spec)
    progress.stage("planning the noise")
    plan = make_plan(spec, task.train.protected)
    with _opened(plan, ledger or default_ledger_place()) as book:
        claim = _claim(book, plan, own, population, spec.unit)
        _call(ranks, spec, plan, settled)
        ready = prepare(spec, task, settled, progress, ranks)
        place = book.place if book else Path()
        run = Run.create(runs, spec, plan, place, lambda id: _reserve(book, plan, id, claim))
        return _run(run, ready, book, progress, ranks)


def resume(path: str | Path, *, machine: Machine | None = None, progress: Progress | None = None) -> Result:
    """Finish a run that was broken off, with fresh randomness and only the steps still unspent.

    A finished run is left as it is. Raises UserError where the ledger does not know the run by its plan, was put
    back from an older copy, or where the data have changed in number.
    """
    return launched(functools.partial(_resume, Path(path), progress or Progress()), machine or Machine())


def _resume(path: Path, progress: Progress, ranks: Team, machine: Machine) -> Result:
    run = Run.open(path)
    done = run.read_json("result")
    if done is not None:
        return Result.from_json({**done, "path": run.path})
    progress.stage("reading the data")
    task = planting.planted(tasks.load(run.spec), run.spec)
    if run.plan.rate != run.spec.batch_size / task.train.protected:
        raise UserError(
            f"a run resumes on as many {run.spec.unit}s as it began with, got {task.train.protected}; "
            "restore the data of the run"
        )
    settled = settle(run.spec, machine)
    _call(ranks, run.spec, run.plan, settled)
    ready = prepare(run.spec, task, settled, progress, ranks)
    if run.plan.budget is not None and not is_there(run.ledger):
        raise UserError(f"a run resumes with its ledger, got none at {str(run.ledger)!r}; restore that file")
    with _opened(run.plan, run.ledger) as book:
        if book is not None:
            if book.reservation(run.id) != _terms(run.plan, run.id):
                raise UserError(
                    f"a run resumes as it was reserved, got another plan or a ledger that does not know it at "
                    f"{str(run.ledger)!r}; restore the run's plan.json and its ledger"
                )
            book.verify(run.ledger_head)
        return _run(run, ready, book, progress, ranks)


@contextlib.contextmanager
def _opened(plan: Plan, place: str | Path) -> Iterator[Ledger | None]:
    """The ledger of a private plan; None for one that charges nothing."""
    if plan.budget is None:
        yield None
    else:
        with Ledger(place) as book:
            yield book


def _claim(book: Ledger | None, plan: Plan, task: tasks.Task, population: str | None, unit: str) -> Claim | None:
    """Whose data these are. Refuses what would exceed their limit, before anything costs time or privacy."""
    if book is None:
        if population is not None:
            raise UserError("only a private run is charged to a population, got --non-private; drop --population")
        return None
    claim = book.claim(task.train.texts, task.train.pairs, population, unit)
    book.check(_terms(plan, "planned"), claim)
    return claim


def _terms(plan: Plan, run: str) -> Reservation:
    """All that `run` may release, as the ledger holds it."""
    assert plan.budget is not None
    assert plan.epsilon_upper is not None
    return Reservation(run, plan.rate, plan.noise, plan.steps, plan.budget.delta, plan.epsilon_upper)


def _reserve(book: Ledger | None, plan: Plan, run: str, claim: Claim | None) -> str:
    """Reserve a new run's steps on its data. Returns the ledger's head, empty where nothing is private."""
    if book is None:
        return ""
    terms = asdict(_terms(plan, run))
    book.reserve(terms.pop("run"), **terms, claim=claim)
    return book.head()


def _call(ranks: Team, spec: Spec, plan: Plan, settled: Hardware) -> None:
    """Have the other ranks prepare for the same training."""
    ranks.tell({"spec": spec.to_json(), "plan": plan.to_json(), "precision": settled.precision})


def prepare(spec: Spec, task: tasks.Task, settled: Hardware, progress: Progress, ranks: Team = ALONE) -> Prepared:
    """Model, token arrays and frozen features, which `ranks` compute together. Refuses ranks that differ in them."""
    progress.stage("loading the model")
    model = adapt(spec, len(task.labels), task.train.pairs is not None, settled, rehearsed=True)
    progress.stage("encoding the texts")
    train_rows, validation = (
        encode(rows, model.tokenizer, spec.representation, spec.max_length) for rows in (task.train, task.validation)
    )
    if model.adapted.gradients == "single":
        progress.note(f"here the method takes one {spec.unit} at a time: exact, and many times slower")
    ranks.alike("data", *train_rows.arrays, *validation.arrays)
    ranks.alike(
        "encoder and device", f"{model.adapted.model.digest} {settled.precision} {settled.device.type}".encode()
    )
    if model.adapted.frozen:
        progress.stage("computing the frozen features")
        train_rows, validation = (
            rows.with_features(evaluate.features(model.adapted.model, rows, settled, ranks))
            for rows in (train_rows, validation)
        )
    return Prepared(task, train_rows, validation, model.adapted, settled)


def _run(run: Run, ready: Prepared, book: Ledger | None, progress: Progress, ranks: Team = ALONE) -> Result:
    """Train what is left of `run`, then judge and write it down."""
    plan, adapted, started = run.plan, ready.adapted, time.monotonic()
    optimizer = optimizer_of(run.spec, adapted)
    checkpoints = Checkpoints(run, adapted, optimizer)
    start, before, head = checkpoints.restore()
    secret, spent = Secret(), _spent(plan)
    present = planting.present(run, len(ready.train), secret)
    step: SharedStep[Batch] | PlainStep[Batch]
    if book is not None:
        if head is not None:
            book.verify(head)
        start = max(start, book.next_step(run.id))
        step = PrivateStep(adapted, plan, optimizer, book, secret, run.id, ranks)
    else:
        step = PlainStep(adapted, plan, optimizer, ranks)
    progress.created(run.path)
    ranks.tell({"start": start})
    ranks.tell_tensors(checkpoints.tensors())
    tokens = ready.train.tokens
    own = (drawn[present[drawn]] for drawn in poisson_batches(ready.train.protected, plan, secret, start))
    dealt = (ranks.deal(drawn, tokens[drawn]) for drawn in own)
    progress.started(start, plan.steps)
    try:
        for done in steps(run.spec, ready, optimizer, step, enumerate(dealt, start)):
            seconds = before + time.monotonic() - started
            checkpoints.save_when_due(done, seconds, plan.steps, book.head() if book else "")
            progress.stepped(done, spent(done))
    finally:
        progress.ended()
    return _finish(run, ready, book, before + time.monotonic() - started, progress)


def steps(
    spec: Spec,
    ready: Prepared,
    optimizer: torch.optim.Optimizer,
    step: SharedStep[Batch] | PlainStep[Batch],
    batches: Iterable[tuple[int, NDArray[np.int64]]],
) -> Iterator[int]:
    """Take a step on each of this rank's numbered `batches`. Yields how many steps are done."""
    ready.adapted.model.per_example = isinstance(step, SharedStep)
    try:
        for number, units in batches:
            _set_rate(optimizer, spec, number, step.plan.steps)
            step(number, microbatches(ready.train, units, ready.hardware.tokens, ready.hardware.device))
            yield number + 1
    finally:
        step.close()


def _spent(plan: Plan) -> Callable[[int], float | None]:
    """An upper bound on the epsilon of the first k steps; None where nothing is private."""
    if plan.budget is None or plan.epsilon_upper is None:
        return lambda _steps: None
    return epsilon_curve(plan.noise, plan.rate, plan.steps, plan.budget.delta, plan.epsilon_upper)


def _finish(run: Run, ready: Prepared, book: Ledger | None, seconds: float, progress: Progress) -> Result:
    progress.stage("judging on the validation rows")
    plan, adapted, settled = run.plan, ready.adapted, ready.hardware
    outputs = evaluate.logits(adapted.model, ready.validation, settled)
    value = evaluate.score(ready.task.metric, outputs, ready.validation.labels)
    about = {
        "spec": canonical_json(run.spec.to_json()),
        "labels": canonical_json(list(ready.task.labels)),
        "paired": canonical_json(ready.task.validation.pairs is not None),
        "backbone_sha256": adapted.model.digest,
    }
    run.save_tensors("adapter", adapted.state(), about)
    charge = Charge(plan.steps, "", None)
    if book is not None:
        book.settle(run.id)
        charge = Charge(book.charged(run.id), book.head(), _together(book, plan, run.id))
    promised = card(run.spec, plan, ready.train.protected, charge, settled.precision)
    run.write_json("privacy", {**promised, "adapter_sha256": adapter_digest(run)})
    result = Result(
        run.path, ready.task.metric, value, plan.epsilon_upper, plan.budget.delta if plan.budget else None,
        plan.steps, sum(p.numel() for p in adapted.private), round(seconds), settled.precision, settled.device.type,
    )  # fmt: skip
    run.write_json("result", result.to_json())
    return result


def _together(book: Ledger, plan: Plan, run: str) -> dict[str, Any] | None:
    """What all runs on the same population have spent, as of now; None for a run that was reserved without one."""
    assert plan.budget is not None
    population = book.view().holding(run)
    return None if population is None else summarize(population, plan.budget.delta).to_json()


def optimizer_of(spec: Spec, adapted: Adapted) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015) or SGD with momentum 0.9, on what the method updates."""
    parameters = list(adapted.updated.values())
    assert spec.learning_rate is not None  # settled by train()
    if spec.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=spec.learning_rate)
    return torch.optim.SGD(parameters, lr=spec.learning_rate, momentum=0.9)


def _set_rate(optimizer: torch.optim.Optimizer, spec: Spec, step: int, steps: int) -> None:
    """The learning rate of step `step` (from 0): constant, or a short warm-up and a fall to zero.

    The warm-up takes 6 % of the steps (Gupta et al. 2023, appendix C); the fall is a line or half a cosine.
    """
    warm = max(1, round(WARMUP * steps))
    rising, falling = min(1.0, (step + 1) / warm), max(0.0, (step - warm) / max(1, steps - warm))
    shapes: dict[Schedule, float] = {
        "constant": 1.0,
        "linear": rising * (1 - falling),
        "cosine": rising * (1 + math.cos(math.pi * falling)) / 2,
    }
    for group in optimizer.param_groups:
        group["lr"] = (spec.learning_rate or 0.0) * shapes[spec.schedule]
