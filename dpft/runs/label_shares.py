"""How often each control code occurs: one of the planned steps releases the classes' shares instead of a gradient.

It is the same subsampled Gaussian mechanism as every other step (the same sampling rate, sensitivity and noise), so the
plan, the accountant and the ledger need not know of it. Without privacy the shares are exact, and NOT PRIVATE.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dpft.data.examples import Examples
from dpft.privacy.ledger import Event, Ledger
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.randomness import Secret
from dpft.runs.folder import Run
from dpft.tasks import Task

FILE = "label_shares"  # label_shares.json
STATEMENT = "the labels' shares are released by the first of the planned steps, with its sampling rate and noise"


def is_due(task: Task, plan: Plan, start: int) -> bool:
    """Whether step 0 of the run releases the shares."""
    return start == 0 and task.objective.has_control_codes and len(task.labels) > 1 and plan.steps > 1


def release(run: Run, task: Task, drawn: NDArray[np.int64], ledger: Ledger | None, secret: Secret) -> None:
    """Charge step 0, then write the classes' shares among the `drawn` units, (n,), with the noise of a step.

    A crash in between loses the shares; the charge stays.
    """
    votes = _votes(task.train, len(task.labels))
    if ledger is None:
        found = votes.mean(0)
    else:
        plan = run.plan
        ledger.charge(Event(run=run.id, step=0, rate=plan.rate, noise=plan.noise))
        total = votes[drawn].sum(0) + secret.normal(len(task.labels)) * plan.noise
        found = total / plan.expected_batch
    shares = np.clip(found, 0, None)
    shares = shares / shares.sum() if shares.sum() > 0 else np.full(len(shares), 1 / len(shares))
    rounded = {name: round(float(share), 4) for name, share in zip(task.labels, shares, strict=True)}
    run.write_json(FILE, {"shares": rounded, "private": ledger is not None})


def _votes(rows: Examples, labels: int) -> NDArray[np.float64]:
    """What each unit adds to the sum: the shares of its rows' labels, (U, labels), of L2 norm 1 at most."""
    each: NDArray[np.float64] = np.eye(labels)[np.asarray(rows.labels)]
    if rows.units is None:
        return each
    _, units = np.unique(rows.units, return_inverse=True)
    count = np.bincount(units)
    total: NDArray[np.float64] = np.zeros((len(count), labels))
    np.add.at(total, units, each)
    total /= count[:, None]
    return total
