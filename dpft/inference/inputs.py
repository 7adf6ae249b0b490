"""Task, encoded rows and frozen features of a spec, each computed once for all specs that share them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpft import tasks
from dpft.data.encoded import Encoded
from dpft.inference import outputs
from dpft.inference.build import BuiltModel
from dpft.machine.hardware import Hardware
from dpft.machine.memo import Memo
from dpft.machine.team import SINGLE_PROCESS, Team
from dpft.models.loading import digest
from dpft.privacy.calibration import cache
from dpft.runs import overlap
from dpft.spec import Spec
from dpft.tokens.token_store import encoded


def token_cache_folder() -> Path:
    """The cache folder for the encoded rows of large data."""
    return cache.path().parent / "encoded"


def load_task(spec: Spec, memo: Memo) -> tasks.Task:
    """Load the task of `spec`, without canaries."""
    return memo.get("tasks", task_key(spec), lambda: tasks.load(spec))


def first_shared_row(spec: Spec, task: tasks.Task, memo: Memo) -> int | None:
    """The number of the first validation row that is also a training row (`overlap.shared_records`); None without."""
    return memo.get("shared records", [*task_key(spec), _canary_key(spec)], lambda: overlap.shared_records(task))


def encoded_splits(spec: Spec, task: tasks.Task, tokenizer: Any, memo: Memo) -> list[Encoded]:
    """The encoded training rows of `task`, then each encoded validation set."""

    def make() -> list[Encoded]:
        every = (task.train, *task.judged.values())
        return [encoded(rows, tokenizer, spec.representation, spec.max_length, token_cache_folder()) for rows in every]

    return memo.get("token arrays", _tokens_key(spec), make)


def frozen_features(
    spec: Spec, rows: list[Encoded], model: BuiltModel, resolved: Hardware, memo: Memo, ranks: Team = SINGLE_PROCESS
) -> list[Encoded]:
    """`rows` with the features of the frozen encoder. They depend on its weights and precision, not on the seed."""
    found = model.adapted.model

    def make() -> list[Encoded]:
        return [one.with_features(outputs.features(found, one, resolved, ranks)) for one in rows]

    key = [*_tokens_key(spec), digest(found.backbone), resolved.precision, resolved.attention]
    return memo.get("frozen features", key, make)


def task_key(spec: Spec) -> list[Any]:
    """The part of a spec that determines its rows, as a JSON value."""
    columns = [spec.text, spec.pair, spec.label, spec.validation, spec.kind, list(spec.labels or ())]
    weights = [spec.class_weights, spec.shares] if spec.class_weights else []
    writing = [spec.prompt, spec.messages, spec.max_windows, spec.token_loss, spec.max_length]
    return [spec.task, spec.data, spec.unit, spec.max_per_unit, columns, writing, *weights]


def _tokens_key(spec: Spec) -> list[Any]:
    return [*task_key(spec), _canary_key(spec), spec.model, spec.representation, spec.max_length]


def _canary_key(spec: Spec) -> list[int] | None:
    return [spec.canaries, spec.seed] if spec.canaries else None  # the canaries depend on the seed
