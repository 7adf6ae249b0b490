"""From a spec to a model with its method inside: the same steps for training, resuming and loading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dpft import methods, models
from dpft.hardware import Hardware
from dpft.methods._method import Adapted
from dpft.spec import Spec
from dpft.tasks import Rows
from dpft.tasks.encode import encode
from dpft.tasks.microbatch import collate


@dataclass(frozen=True)
class Model:
    """An adapted model beside the tokenizer that feeds it."""

    adapted: Adapted
    tokenizer: Any


def adapt(spec: Spec, labels: int, hardware: Hardware) -> Model:
    """`spec.method` attached to `spec.model`, on its device; `labels` is 0 for a score.

    What the head reads is scaled by the encoder's answer to the empty text, which is public.
    """
    tokenizer = models.tokenizer(spec.model)
    empty = encode(Rows([""], None, np.zeros(1, np.int64)), tokenizer, spec.representation, spec.max_length)
    model = models.load(spec, labels or 1, hardware, collate(empty, np.zeros(1, np.int64)))
    adapted = methods.load(spec.method, spec.options).attach(model, spec.seed)
    return Model(Adapted(adapted.model.to(hardware.device), adapted.named, regression=labels == 0), tokenizer)
