"""Prepare a training: everything that is needed before any privacy budget is spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpft import methods, recipe, tasks
from dpft.data.encoded import Encoded
from dpft.errors import UserError
from dpft.inference.build import BuiltModel, build_model, resolve_hardware
from dpft.inference.drift import tolerances
from dpft.inference.inputs import encoded_splits, first_shared_row, frozen_features, token_cache_folder
from dpft.machine.hardware import Hardware
from dpft.machine.memo import Memo
from dpft.machine.team import SINGLE_PROCESS, Team
from dpft.models.adapted import AdaptedModel
from dpft.progress import Progress
from dpft.recipe import Choice
from dpft.runs import overlap
from dpft.spec import Machine, Spec, steps_of
from dpft.training import warm_start as starts

ENCODER = "encoder_sha256"  # in task.json


@dataclass(frozen=True)
class Prepared:
    """Everything that a training needs before any privacy budget is spent.

    `spec`: with the learning rates that the recipe chose; `reasons`: why. `train`, `judged`: encoded training and
    validation rows. `head_taken`: the warm start also gave its head. `shared`: some validation rows are training rows.
    """

    spec: Spec
    task: tasks.Task
    train: Encoded
    judged: dict[str, Encoded]
    adapted: AdaptedModel
    hardware: Hardware
    start: starts.Start | None = None
    head_taken: bool = False
    shared: bool = False
    reasons: tuple[str, ...] = ()


def settled_spec(spec: Spec) -> Spec:
    """`spec` with the representation that its task needs. Raises UserError if no run can be made of it."""
    method = methods.load(spec.method, spec.options)
    if spec.head_learning_rate is not None and methods.head_alone(method):
        raise UserError(
            f"head-learning-rate goes with a method that trains more than the head, got {spec.method!r}; "
            "name its learning-rate alone"
        )
    tasks.check(spec)
    return tasks.settled(spec)


def choose_rates(spec: Spec, steps: int, model: BuiltModel, ranks: Team = SINGLE_PROCESS) -> Choice:
    """Choose optimizer and learning rates for a run of `steps`. Rank 0 measures them on synthetic texts.

    Raises UserError if the requested optimizer does not work with the method.
    """
    adapted = model.adapted
    scalable = _is_scalable(adapted)
    if spec.optimizer == "adam_scaled" and not scalable:
        raise UserError(
            f"adam_scaled needs per-example gradients of every parameter that it updates, got {spec.method!r}; "
            "pass --optimizer adam"
        )
    free = methods.load(spec.method, spec.options).non_private_rate
    measured = spec.learning_rate is None and spec.budget is not None and not adapted.frozen
    found = ranks.from_first(lambda: tolerances(adapted, model.public, recipe.PROBE) if measured else {})
    return recipe.choose_rates(spec, steps, found, drift=_head_drift(spec, adapted), free_rate=free, scalable=scalable)


def _head_drift(spec: Spec, adapted: AdaptedModel) -> float | None:
    """How far noise may move the outputs through the head; None where no head is trained beside other tensors, without
    privacy one that is trained alone."""
    if not adapted.frozen:
        return adapted.objective.drift
    return None if spec.budget is None else adapted.objective.drift_alone


def _is_scalable(adapted: AdaptedModel) -> bool:
    """Whether gradients can be privatised in the optimizer's geometry.

    The optimizer must update the same parameters that the gradients are of, and the gradients must exist per example,
    not only as norms.
    """
    own = {id(p) for p in adapted.updated.values()} == {id(p) for p in adapted.private}
    return own and adapted.gradients != "ghost"


def choose_without_training(spec: Spec, task: tasks.Task, machine: Machine) -> Spec:
    """`spec` with everything that the recipe chooses, without training: for callers that need it beforehand."""
    filled = recipe.choose_schedule(settled_spec(spec), task.train.unit_count).spec
    if None not in (filled.learning_rate, filled.optimizer):
        return filled
    model = build_model(
        filled, len(task.labels), task.paired, resolve_hardware(filled, machine), objective=task.objective
    )
    return choose_rates(filled, steps_of(filled, task.train.unit_count), model).spec


def about_task(task: tasks.Task) -> dict[str, Any]:
    """The content of task.json: task, labels and metrics, and which of them were read from the training data."""
    about = {"task": task.name, "kind": task.objective.kind, "labels": task.labels, "metrics": task.metrics}
    return {
        **{key: list(v) if isinstance(v, tuple) else v for key, v in about.items()},
        "taken": list(task.read_from_training),
    }


def prepare(
    spec: Spec,
    steps: int,
    task: tasks.Task,
    resolved: Hardware,
    progress: Progress,
    memo: Memo,
    ranks: Team = SINGLE_PROCESS,
) -> Prepared:
    """Build the model, choose learning rates for a run of `steps`, and encode the rows.

    `ranks` compute frozen features together. Raises UserError if the ranks' data, encoder or device type differ.
    """
    progress.stage("loading the model")
    start = starts.read(spec)
    model = build_model(spec, len(task.labels), task.paired, resolved, objective=task.objective, check_trainable=True)
    taken = start is not None and start.put(model.adapted, spec, task.labels)
    if spec.learning_rate is None:
        progress.stage("measuring learning rates on synthetic texts")
    chosen = choose_rates(spec, steps, model, ranks)
    shared = first_shared_row(spec, task, memo) is not None
    if shared:
        progress.note(overlap.NOTE)
    progress.stage("encoding the texts")
    encoded = encoded_splits(spec, task, model.tokenizer, memo)
    if task.train.digest is not None:
        progress.note(
            f"the encoded texts are kept in {token_cache_folder()}, readable by you alone; delete them as you like"
        )
    if model.adapted.gradients == "single":
        progress.note(f"gradients are computed for one {spec.unit} at a time here: exact, but many times slower")
    ranks.check_equal("data", *(array for rows in encoded for array in rows.arrays))
    ranks.check_equal(
        "encoder and device", f"{model.adapted.model.digest} {resolved.precision} {resolved.device.type}".encode()
    )
    if model.adapted.frozen:
        progress.stage("computing the frozen features")
        encoded = frozen_features(spec, encoded, model, resolved, memo, ranks)
    train_rows, *judged = encoded
    return Prepared(
        chosen.spec, task, train_rows, dict(zip(task.judged, judged, strict=True)), model.adapted, resolved, start,
        taken, shared, chosen.reasons,
    )  # fmt: skip
