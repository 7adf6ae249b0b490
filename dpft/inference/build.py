"""Build a model with its fine-tuning method from a spec, in the same way for training, resuming and loading."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dpft import methods, models, objectives
from dpft.data.batch import Batch
from dpft.errors import UserError
from dpft.machine import hardware
from dpft.machine.hardware import Hardware
from dpft.models.adapted import AdaptedModel
from dpft.objectives import Objective
from dpft.spec import Machine, Spec
from dpft.tasks import sample
from dpft.tokens.encode import encode
from dpft.tokens.microbatch import microbatches

PUBLIC_TEXTS, PUBLIC_SEED = 256, 7


@dataclass(frozen=True)
class BuiltModel:
    """An adapted model with its tokenizer, and `public`: encoded synthetic texts to measure it on."""

    adapted: AdaptedModel
    tokenizer: Any
    public: Sequence[Batch] = ()


def resolve_hardware(spec: Spec, machine: Machine) -> Hardware:
    """Resolve device and precision for `spec`. A method that trains the encoder itself always uses float32."""
    if getattr(methods.load(spec.method, spec.options), "float32", False):
        machine = dataclasses.replace(machine, precision="fp32")
    return hardware.resolve(machine)


def build_model(
    spec: Spec, labels: int, paired: bool, resolved: Hardware, *, objective: Objective | None = None,
    check_trainable: bool = False,
) -> BuiltModel:  # fmt: skip
    """Load `spec.model` and attach `spec.method`, on the device of `resolved`.

    labels: number of labels, 0 for a score. paired: texts come in pairs. objective: that of the task; None for the
    default one for this number of labels. check_trainable: run a forward and backward pass on synthetic texts, so that
    a model that cannot be trained is refused before any budget is spent. Raises UserError.

    The head's input is standardised with the encoder's outputs on synthetic texts, which are public. If more than the
    head is trained, the head starts with outputs of the size of the targets: a head near zero passes almost no gradient
    on, and its own gradient would use up the clipping norm (STS-B, LoRA with A frozen: 76 instead of 71).
    """
    tokenizer = models.tokenizer(spec.model)
    texts, _ = sample.generate(2 * PUBLIC_TEXTS, seed=PUBLIC_SEED)
    pairs = texts[PUBLIC_TEXTS:] if paired else None
    objective = objective or objectives.plain(labels)
    rows = objective.placeholder_rows(texts[:PUBLIC_TEXTS], pairs, labels)
    public = encode(rows, tokenizer, spec.representation, spec.max_length)
    batches = list(microbatches(public, np.arange(PUBLIC_TEXTS), resolved.tokens))
    model = models.load(spec, objective.outputs(labels), resolved, batches)
    method = methods.load(spec.method, spec.options)
    adapted = method.attach(model, spec.seed)
    model.initialise(spec.seed, None if methods.head_alone(method) else objective.reach, objective.start)
    models.check_length(model.backbone, spec.max_length, model.prompts)
    adapted = dataclasses.replace(adapted, objective=objective)
    # Ghost norms exist for single rows only. Whether a private text has several windows must not show.
    several = spec.unit != Spec.unit or (rows.documents is not None and spec.max_windows > 1)
    if several and adapted.gradients == "ghost":
        adapted = dataclasses.replace(adapted, gradients="single")
    adapted.model.to(resolved.device)
    if check_trainable:
        first = next(microbatches(public, np.arange(2), resolved.tokens, resolved.device))
        _check_trainable(adapted, first)
    few = list(microbatches(public, np.arange(model.probe_rows), resolved.tokens, resolved.device))
    return BuiltModel(adapted, tokenizer, few)


def _check_trainable(adapted: AdaptedModel, batch: Batch) -> None:
    adapted.begin(0)
    losses = adapted.losses(adapted.model(batch), batch)
    found = torch.autograd.grad(losses.sum(), list(adapted.private), allow_unused=True)
    idle = [name for name, gradient in zip(adapted.named, found, strict=True) if gradient is None]
    if idle:
        raise UserError(
            f"every trainable parameter must affect the outputs, got {idle[0]!r} without a gradient; "
            "pass another --method or --model"
        )
