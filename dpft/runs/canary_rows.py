"""Canaries in the training data: synthetic rows; a fair coin decides for each one whether it is trained on.

All m canaries count in the declared data size, so that the sampling rate = batch size / (real rows + m) does not depend
on the coins: otherwise the rate would reveal them, and would differ from the rate that was accounted for. Each row is
drawn independently at that rate, and a drawn canary that is not included is dropped. What remains is Poisson sampling,
at the declared rate, from the real rows and the included canaries, so the accounting holds unchanged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.objectives import CanaryTexts, Ingredients, Objective
from dpft.privacy.ledger import Ledger
from dpft.privacy.randomness import Secret
from dpft.runs.folder import Run, write
from dpft.spec import Spec
from dpft.tasks import Task, sample

_NAME = "canaries.json"
_SEED = 8_191
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class CanaryRows:
    """The canaries, which of them are `random` strings, and which were `included`. The others are mislabelled messages.

    prefixes, secrets: what a model is given to write after, and what follows there in the row; () for other models.
    """

    rows: Examples
    random: NDArray[np.bool_]
    included: NDArray[np.bool_]
    prefixes: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


def canaries(spec: Spec, objective: Objective, labels: tuple[str, ...], paired: bool = False) -> CanaryTexts | None:
    """The canaries of `spec`, made from its public seed, for a task with these labels, of texts or of pairs.

    None if the objective has no canaries.
    """
    half = spec.canaries // 2
    rng = Random(f"{_SEED}-{spec.seed}")
    messages, true = sample.generate(half, _SEED + spec.seed, label_noise=0.0)
    rest = spec.canaries - half
    words = [" ".join(_word(rng) for _ in range(rng.randrange(4, 10))) for _ in range(rest)]
    return objective.canaries(Ingredients(messages, true, words), labels, paired, rng)


def with_canary_rows(task: Task, spec: Spec) -> Task:
    """`task` with all canaries of `spec` appended to its training rows. Raises UserError if its objective has none."""
    if spec.canaries == 0:
        return task
    made, train = canaries(spec, task.objective, task.labels, task.paired), task.train
    if made is None:
        raise UserError(f"canaries need a task with one label a row, got one of {task.objective.kind}; drop --canaries")
    rows = made.rows
    pairs = None if train.pairs is None or rows.pairs is None else [*train.pairs, *rows.pairs]
    labels = np.concatenate([train.labels, rows.labels])
    every = Examples([*train.texts, *rows.texts], pairs, labels, documents=train.documents)
    return dataclasses.replace(task, train=every)


def included_rows(run: Run, rows: int, secret: Secret) -> NDArray[np.bool_]:
    """Which of the `rows` training rows may be trained on: (rows,) bool, all but the canaries that are not included.

    The coins are tossed before the first step and kept in private/, readable by the owner alone. Raises UserError if
    the file is missing after a step was taken.
    """
    kept = np.ones(rows, bool)
    if run.spec.canaries == 0:
        return kept
    path = run.path / "private" / _NAME
    if not path.is_file():
        _refuse_after_a_step(run)
        included = secret.bernoulli(0.5, run.spec.canaries)
        _toss_once(path, (json.dumps({"included": included.tolist()}) + "\n").encode())
    kept[rows - run.spec.canaries :] = _included(run)
    return kept


def included_canaries(
    run: Run, objective: Objective, labels: tuple[str, ...], paired: bool = False
) -> CanaryRows | None:
    """The canaries of a run and which were included; None if the run has no canaries."""
    found = canaries(run.spec, objective, labels, paired) if run.spec.canaries else None
    if found is None:
        return None
    return CanaryRows(found.rows, found.random, _included(run), found.prefixes, found.secrets)


def _toss_once(path: Path, content: bytes) -> None:
    """Write the coins unless the file exists: two processes on the same run both use the coins of the first."""
    own = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    write(own, content, private=True)
    with contextlib.suppress(FileExistsError):
        os.link(own, path)
    own.unlink()


def _included(run: Run) -> NDArray[np.bool_]:
    path = run.path / "private" / _NAME
    try:
        found = np.array(json.loads(path.read_text())["included"], bool)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the included canaries must be readable, got {type(error).__name__} at {str(path)!r}; restore that file"
        ) from None
    if found.shape != (run.spec.canaries,):
        raise UserError(
            f"{_NAME} must hold {run.spec.canaries} canaries, got {found.size}; restore it in {str(path.parent)!r}"
        )
    return found


def _refuse_after_a_step(run: Run) -> None:
    """Raise UserError if a step was taken: new coins would train two different sets of canaries in one run."""
    if run.plan.budget is None:
        taken = (run.path / "checkpoints").is_dir()
    else:
        with Ledger(run.ledger) as ledger:
            taken = ledger.next_step(run.id) > 0
    if taken:
        raise UserError(
            f"a run with canaries resumes with their coins, got no private/{_NAME} in {str(run.path)!r}; restore it"
        )


def _word(rng: Random) -> str:
    return "".join(rng.choice(_LETTERS) for _ in range(rng.randrange(3, 9)))
