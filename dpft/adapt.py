"""From a spec to a model with its method inside: the same steps for training, resuming and loading."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpft import methods, models
from dpft.hardware import Hardware
from dpft.methods._method import Adapted
from dpft.spec import Spec
from dpft.tasks import Rows, sample
from dpft.tasks.encode import encode
from dpft.tasks.microbatch import microbatches

PUBLIC_TEXTS, PUBLIC_SEED = 256, 7


@dataclass(frozen=True)
class Model:
    """An adapted model beside the tokenizer that feeds it."""

    adapted: Adapted
    tokenizer: Any


def adapt(spec: Spec, labels: int, paired: bool, hardware: Hardware) -> Model:
    """`spec.method` attached to `spec.model`, on its device; `labels` is 0 for a score.

    What the head reads is standardised by the encoder's answers to texts that we made up: they are public.
    """
    tokenizer = models.tokenizer(spec.model)
    texts, _ = sample.generate(2 * PUBLIC_TEXTS, seed=PUBLIC_SEED)
    pairs = texts[PUBLIC_TEXTS:] if paired else None
    rows = Rows(texts[:PUBLIC_TEXTS], pairs, np.zeros(PUBLIC_TEXTS, np.int64))
    public = encode(rows, tokenizer, spec.representation, spec.max_length)
    batches = list(microbatches(public, np.arange(PUBLIC_TEXTS), hardware.tokens))
    model = models.load(spec, labels or 1, hardware, batches)
    adapted = methods.load(spec.method, spec.options).attach(model, spec.seed)
    models.check_length(model.backbone, spec.max_length, model.prompts)
    adapted.model.to(hardware.device)
    return Model(dataclasses.replace(adapted, regression=labels == 0), tokenizer)
