"""From a spec to a model with its method inside: the same steps for training, resuming and loading."""

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
from dpft.models.adapted import Adapted
from dpft.models.classifier import initialise_head
from dpft.objectives import Objective
from dpft.spec import Machine, Spec
from dpft.tasks import sample
from dpft.tokens.encode import encode
from dpft.tokens.microbatch import microbatches

PUBLIC_TEXTS, PUBLIC_SEED = 256, 7
FEW = 32  # of them, to measure tensors with one by one


@dataclass(frozen=True)
class Model:
    """An adapted model beside the tokenizer that feeds it, and the made-up texts that it was tried on."""

    adapted: Adapted
    tokenizer: Any
    public: Sequence[Batch] = ()


def settle(spec: Spec, machine: Machine) -> Hardware:
    """The machine as found out; a method that trains the encoder itself has it in float32 throughout."""
    if getattr(methods.load(spec.method, spec.options), "float32", False):
        machine = dataclasses.replace(machine, precision="fp32")
    return hardware.resolve(machine)


def adapt(
    spec: Spec, labels: int, paired: bool, settled: Hardware, *, objective: Objective | None = None,
    rehearsed: bool = False,
) -> Model:  # fmt: skip
    """`spec.method` attached to `spec.model`, on its device; `labels` is 0 for a score. `objective`: the task's,
    where it is not the plain one for so many labels.

    What the head reads is standardised by the encoder's answers to texts that we made up: they are public. Where more
    than the head is trained, the head starts with outputs as large as answers are: through a head near zero next to no
    gradient comes to the rest, and the head's own would fill the clip (STS-B, LoRA with A frozen: 76 instead of 71).
    With `rehearsed` some of them go forward and backward, so that a model that cannot be trained so is refused before
    anything is spent. Raises UserError.
    """
    tokenizer = models.tokenizer(spec.model)
    texts, _ = sample.generate(2 * PUBLIC_TEXTS, seed=PUBLIC_SEED)
    pairs = texts[PUBLIC_TEXTS:] if paired else None
    objective = objective or objectives.plain(labels)
    rows = objective.placeholder_rows(texts[:PUBLIC_TEXTS], pairs, labels)
    public = encode(rows, tokenizer, spec.representation, spec.max_length)
    batches = list(microbatches(public, np.arange(PUBLIC_TEXTS), settled.tokens))
    model = models.load(spec, objective.outputs(labels), settled, batches)
    method = methods.load(spec.method, spec.options)
    adapted = method.attach(model, spec.seed)
    if not methods.head_alone(method):
        initialise_head(model.head, spec.seed, objective.reach)
    models.check_length(model.backbone, spec.max_length, model.prompts)
    adapted = dataclasses.replace(adapted, objective=objective)
    if spec.unit != Spec.unit and adapted.gradients == "ghost":
        adapted = dataclasses.replace(adapted, gradients="single")  # ghost norms are of single rows
    with torch.no_grad():
        adapted.model.head.bias.fill_(objective.start)
    adapted.model.to(settled.device)
    if rehearsed:
        first = next(microbatches(public, np.arange(2), settled.tokens, settled.device))
        _rehearse(adapted, first)
    few = list(microbatches(public, np.arange(FEW), settled.tokens, settled.device))
    return Model(adapted, tokenizer, few)


def _rehearse(adapted: Adapted, batch: Batch) -> None:
    adapted.begin(0)
    losses = adapted.losses(adapted.model(batch), batch)
    found = torch.autograd.grad(losses.sum(), list(adapted.private), allow_unused=True)
    idle = [name for name, gradient in zip(adapted.named, found, strict=True) if gradient is None]
    if idle:
        raise UserError(
            f"all that is trained must take part in the outputs, got {idle[0]!r} without a gradient; "
            "pass another --method or --model"
        )
