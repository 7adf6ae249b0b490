"""Task, encoded rows and frozen features of a spec, each computed once for all specs that share them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpft import tasks
from dpft.data.encoded import Encoded
from dpft.inference import outputs
from dpft.inference.build import Model
from dpft.machine.hardware import Hardware
from dpft.machine.memo import Shelf
from dpft.machine.team import ALONE, Team
from dpft.models.loading import digest
from dpft.privacy.calibration import cache
from dpft.runs import overlap
from dpft.spec import Spec
from dpft.tokens.token_store import encoded


def stored() -> Path:
    """The cache folder for the encoded rows of large data."""
    return cache.path().parent / "encoded"


def rows_of(spec: Spec, shelf: Shelf) -> tasks.Task:
    """Load the task of `spec`, without canaries."""
    return shelf.get("tasks", rows_key(spec), lambda: tasks.load(spec))


def shared_of(spec: Spec, task: tasks.Task, shelf: Shelf) -> int | None:
    """The number of the first validation row that is also a training row (`overlap.shared_records`); None without."""
    return shelf.get("shared records", [*rows_key(spec), _planted(spec)], lambda: overlap.shared_records(task))


def tokens_of(spec: Spec, task: tasks.Task, tokenizer: Any, shelf: Shelf) -> list[Encoded]:
    """The encoded training rows of `task`, then each encoded validation set."""

    def make() -> list[Encoded]:
        every = (task.train, *task.judged.values())
        return [encoded(rows, tokenizer, spec.representation, spec.max_length, stored()) for rows in every]

    return shelf.get("token arrays", _tokens_key(spec), make)


def features_of(
    spec: Spec, rows: list[Encoded], model: Model, settled: Hardware, shelf: Shelf, ranks: Team = ALONE
) -> list[Encoded]:
    """`rows` with the features of the frozen encoder. They depend on its weights and precision, not on the seed."""
    found = model.adapted.model

    def make() -> list[Encoded]:
        return [one.with_features(outputs.features(found, one, settled, ranks)) for one in rows]

    key = [*_tokens_key(spec), digest(found.backbone), settled.precision, settled.attention]
    return shelf.get("frozen features", key, make)


def rows_key(spec: Spec) -> list[Any]:
    """The part of a spec that determines its rows, as a JSON value."""
    columns = [spec.text, spec.pair, spec.label, spec.validation, spec.kind, list(spec.labels or ())]
    weights = [spec.class_weights, spec.shares] if spec.class_weights else []
    return [spec.task, spec.data, spec.unit, spec.max_per_unit, columns, *weights]


def _tokens_key(spec: Spec) -> list[Any]:
    return [*rows_key(spec), _planted(spec), spec.model, spec.representation, spec.max_length]


def _planted(spec: Spec) -> list[int] | None:
    return [spec.canaries, spec.seed] if spec.canaries else None  # the canaries depend on the seed
