"""train(), resume() and load(): the line from a spec to a trained model and back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dpft import evaluate, hardware, methods, models, tasks
from dpft.card import card
from dpft.checkpoint import Checkpoints
from dpft.hardware import Hardware
from dpft.methods._method import Adapted, Method
from dpft.privacy.accountants import epsilon_curve
from dpft.privacy.ledger import Ledger, default_ledger_path
from dpft.privacy.plan import Plan, make_plan
from dpft.privacy.sampler import poisson_batches
from dpft.privacy.secret import Secret
from dpft.privacy.step import PlainStep, PrivateStep
from dpft.progress import Progress
from dpft.run import Run
from dpft.spec import Machine, Schedule, Spec, UserError, canonical_json
from dpft.tasks.encode import Encoded, encode
from dpft.tasks.microbatch import microbatches


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
    seconds: float
    precision: str
    device: str

    def to_json(self) -> dict[str, Any]:
        """A plain dict, for result.json and --json."""
        return {**asdict(self), "path": str(self.path), "private": self.epsilon is not None}


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
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> Result:
    """Fine-tune `spec.model` on `spec.task` within `spec.budget`, into a new folder below `runs`.

    Everything that can be refused is refused with UserError before the ledger is touched. `ledger` defaults
    to DPFT_LEDGER or the user's data folder.
    """
    progress = progress or Progress()
    method = methods.load(spec.method, spec.options)
    tasks.check(spec)
    settled = hardware.resolve(machine or Machine())
    models.check(spec.model)
    progress.stage("reading the data")
    task = tasks.load(spec)
    progress.stage("planning the noise")
    plan = make_plan(spec, len(task.train))
    ready = _prepare(spec, task, method, settled, progress)
    with Ledger(Path(ledger) if ledger else default_ledger_path()) as book:
        run = Run.create(Path(runs), spec, plan, book.path)
        progress.created(run.path)
        if plan.budget is not None:
            book.reserve(
                run.id, rate=plan.rate, noise=plan.noise, steps=plan.steps,
                delta=plan.budget.delta, epsilon=plan.epsilon_upper or math.inf,
            )  # fmt: skip
        return _run(run, ready, book, progress)


def resume(path: str | Path, *, machine: Machine | None = None, progress: Progress | None = None) -> Result:
    """Finish a run that was broken off, with fresh randomness and only the steps still unspent.

    A finished run is left as it is. Raises UserError where the ledger does not know the run or the data
    have changed in number.
    """
    progress = progress or Progress()
    run = Run.open(Path(path))
    done = run.read_json("result")
    if done is not None:
        return Result(**{**{k: v for k, v in done.items() if k != "private"}, "path": run.path})
    progress.created(run.path)
    progress.stage("reading the data")
    task = tasks.load(run.spec)
    if run.plan.rate != run.spec.batch_size / len(task.train):
        raise UserError(
            f"a run resumes on as many examples as it began with, got {len(task.train)}; restore the data of the run"
        )
    method = methods.load(run.spec.method, run.spec.options)
    ready = _prepare(run.spec, task, method, hardware.resolve(machine or Machine()), progress)
    with Ledger(run.ledger) as book:
        if run.plan.budget is not None and book.reservation(run.id) is None:
            raise UserError(
                f"a run resumes with the ledger it began with, got one that does not know it at {str(run.ledger)!r}; "
                "restore that ledger"
            )
        return _run(run, ready, book, progress)


def _prepare(spec: Spec, task: tasks.Task, method: Method, settled: Hardware, progress: Progress) -> Prepared:
    progress.stage("encoding the texts")
    tokenizer = models.tokenizer(spec.model)
    train_rows, validation = (
        encode(rows, tokenizer, spec.representation, spec.max_length) for rows in (task.train, task.validation)
    )
    progress.stage("loading the model")
    model = models.load(spec, task.outputs, settled)
    adapted = method.attach(model, spec.seed)
    adapted = Adapted(adapted.model.to(settled.device), adapted.named, regression=not task.labels)
    return Prepared(task, train_rows, validation, adapted, settled)


def _run(run: Run, ready: Prepared, book: Ledger, progress: Progress) -> Result:
    """Train what is left of `run`, then judge and write it down."""
    plan, adapted, started = run.plan, ready.adapted, time.monotonic()
    optimizer = _optimizer(run.spec, adapted)
    checkpoints = Checkpoints(run, adapted, optimizer)
    start, before, head = checkpoints.restore()
    if plan.budget is not None:
        if head is not None:
            book.verify(head)
        start = max(start, book.next_step(run.id))
    secret, spent = Secret(), _spent(plan)
    private = plan.budget is not None
    adapted.model.per_example = private
    step = (
        PrivateStep(adapted, plan, optimizer, book, secret, run.id) if private else PlainStep(adapted, plan, optimizer)
    )
    progress.started(start, plan.steps)
    try:
        for number, drawn in enumerate(poisson_batches(len(ready.train), plan, secret, start), start):
            _set_rate(optimizer, run.spec, number, plan.steps)
            step(number, microbatches(ready.train, drawn, ready.hardware.tokens, ready.hardware.device))
            checkpoints.save_when_due(number + 1, before + time.monotonic() - started, plan.steps, book.head())
            progress.stepped(number + 1, spent(number + 1))
    finally:
        step.close()
        progress.ended()
    return _finish(run, ready, book, before + time.monotonic() - started, progress)


def _spent(plan: Plan) -> Callable[[int], float | None]:
    """An upper bound on the epsilon of the first k steps; None where nothing is private."""
    if plan.budget is None or plan.epsilon_upper is None:
        return lambda _steps: None
    return epsilon_curve(plan.noise, plan.rate, plan.steps, plan.budget.delta, plan.epsilon_upper)


def _finish(run: Run, ready: Prepared, book: Ledger, seconds: float, progress: Progress) -> Result:
    progress.stage("judging on the validation rows")
    plan, adapted, settled = run.plan, ready.adapted, ready.hardware
    private = plan.budget is not None
    outputs = evaluate.logits(adapted.model, ready.validation, settled)
    value = evaluate.score(ready.task.metric, outputs, ready.validation.labels)
    about = {
        "spec": canonical_json(run.spec.to_json()),
        "labels": canonical_json(list(ready.task.labels)),
        "paired": canonical_json(ready.task.validation.pairs is not None),
        "backbone_sha256": adapted.model.digest,
    }
    run.save_tensors("adapter", adapted.state(), about)
    charged = book.charged(run.id) if private else plan.steps
    if private:
        book.settle(run.id)
    run.write_json("privacy", card(run.spec, plan, len(ready.train), charged, book.head(), settled.precision))
    result = Result(
        run.path, ready.task.metric, value, plan.epsilon_upper, plan.budget.delta if plan.budget else None,
        plan.steps, sum(p.numel() for p in adapted.private), seconds, settled.precision, settled.device.type,
    )  # fmt: skip
    run.write_json("result", result.to_json())
    return result


def _optimizer(spec: Spec, adapted: Adapted) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015) or SGD with momentum 0.9, on what the method updates."""
    parameters = list(adapted.updated.values())
    if spec.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=spec.learning_rate)
    return torch.optim.SGD(parameters, lr=spec.learning_rate, momentum=0.9)


def _set_rate(optimizer: torch.optim.Optimizer, spec: Spec, step: int, steps: int) -> None:
    """The learning rate of step `step` (from 0): constant, or falling to zero by a line or half a cosine."""
    shapes: dict[Schedule, float] = {
        "constant": 1.0,
        "linear": 1 - step / steps,
        "cosine": (1 + math.cos(math.pi * step / steps)) / 2,
    }
    for group in optimizer.param_groups:
        group["lr"] = spec.learning_rate * shapes[spec.schedule]
