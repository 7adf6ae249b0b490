"""Train a reserved run to its result. Only unspent steps are taken, and each is charged before its release."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from dpft.machine.hardware import Hardware
from dpft.machine.peak_memory import peak_mib, reset_peak
from dpft.machine.team import SINGLE_PROCESS, Team
from dpft.models.adapted import AdaptedModel
from dpft.privacy.accounting.accountants import epsilon_curve
from dpft.privacy.ledger import Ledger
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.mechanism.poisson_sampler import poisson_batches
from dpft.privacy.mechanism.step import NonPrivateStep, PrivateStep
from dpft.privacy.randomness import Secret
from dpft.progress import Progress
from dpft.runs import canary_rows, label_shares
from dpft.runs.folder import Run
from dpft.runs.result import Result
from dpft.spec import Spec
from dpft.training import optimizers
from dpft.training.checkpoints import Checkpoints
from dpft.training.finish import Cost, finish
from dpft.training.loop import Step, steps
from dpft.training.preparation import Prepared


def broadcast_run(ranks: Team, spec: Spec, plan: Plan, resolved: Hardware) -> None:
    """Broadcast the run, so that the other ranks prepare the same training."""
    ranks.broadcast({"spec": spec.to_json(), "plan": plan.to_json(), "precision": resolved.precision})


def complete(
    run: Run, ready: Prepared, ledger: Ledger | None, progress: Progress, ranks: Team = SINGLE_PROCESS
) -> Result:
    """Take the remaining steps of `run`, then evaluate it and write its result.

    `ledger` is the ledger; None without privacy. Returns the Result.
    """
    plan, adapted, started = run.plan, ready.adapted, time.monotonic()
    optimizer = optimizers.make(run.spec, adapted.updated)
    checkpoints = Checkpoints(run, adapted, optimizer)
    if ready.start is not None:
        ready.start.keep(run, ready.head_taken)
    frozen, initial = adapted.frozen_digest(), {name: tensor.clone() for name, tensor in adapted.state().items()}
    start, before, head = checkpoints.restore()
    secret, spent = Secret(), _spent(plan)
    included_rows = canary_rows.included_rows(run, ready.train.unit_count, secret)
    if ledger is not None:
        if head is not None:
            ledger.verify(head)
        start = max(start, ledger.next_step(run.id))
    if label_shares.is_due(ready.task, plan, start):
        drawn = next(poisson_batches(ready.train.unit_count, plan, secret))
        label_shares.release(run, ready.task, drawn[included_rows[drawn]], ledger, secret)
        start = 1
    step = _step(adapted, run, optimizer, ledger, secret, ranks)
    fresh = reset_peak(ready.hardware.device)
    progress.created(run.path)
    ranks.broadcast({"start": start})
    ranks.broadcast_tensors(checkpoints.tensors())
    tokens = ready.train.tokens
    own = (drawn[included_rows[drawn]] for drawn in poisson_batches(ready.train.unit_count, plan, secret, start))
    dealt = (ranks.scatter(drawn, tokens[drawn]) for drawn in own)
    progress.started(start, plan.steps)
    try:
        for done in steps(run, ready, optimizer, step, enumerate(dealt, start)):
            seconds = before + time.monotonic() - started
            checkpoints.save_when_due(done, seconds, plan.steps, ledger.head() if ledger else "")
            progress.stepped(done, spent(done))
    finally:
        progress.ended()
    memory = peak_mib(ready.hardware.device) if fresh else None
    adapted.check_moved(initial, frozen)
    return finish(run, ready, ledger, Cost(before + time.monotonic() - started, memory), progress)


def _step(
    adapted: AdaptedModel,
    run: Run,
    optimizer: torch.optim.Optimizer,
    ledger: Ledger | None,
    secret: Secret,
    ranks: Team,
) -> Step:
    if ledger is None:
        return NonPrivateStep(adapted, run.plan, optimizer, ranks)
    return PrivateStep(adapted, run.plan, optimizer, ledger, secret, run.id, ranks)


def _spent(plan: Plan) -> Callable[[int], float | None]:
    """A function that bounds the epsilon of the first k steps from above; it returns None without privacy."""
    if plan.budget is None or plan.epsilon_upper is None:
        return lambda _steps: None
    return epsilon_curve(plan.noise, plan.rate, plan.steps, plan.budget.delta, plan.epsilon_upper)
