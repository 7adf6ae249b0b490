"""Planted rows with orthogonal clipped gradients of known direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpft.audit.mechanism.canary_gradients import HUGE, Marks
from dpft.data.encoded import Encoded
from dpft.data.examples import Rows
from dpft.inference.outputs import features
from dpft.inference.trained_model import Trained
from dpft.models.adapted import Adapted
from dpft.tasks import sample
from dpft.tokens.encode import encode

MOST = 256
_SEED = 20_221


@dataclass(frozen=True)
class Canaries:
    """m planted rows, row i at input i of the head. units: (m, outputs), how the outputs share the clip."""

    data: Encoded
    marks: Marks
    units: Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.data)

    def scaled(self, scales: Tensor) -> Canaries:
        """The same rows seen in a scaled space: each gradient's direction is scaled, then cut. scales: (outputs, D)."""
        units = self.units * scales[:, : len(self)].T
        return replace(self, units=units / units.norm(dim=1, keepdim=True))

    def expected(self, drawn: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The clipped sum of the drawn rows for a clip of 1: head weights (outputs, m) and bias (outputs,)."""
        weight = torch.zeros(self.units.shape[1], len(self), dtype=torch.float64)
        weight[:, drawn] = self.units[drawn].T
        return weight, weight.sum(1) / self.scale

    def read(self, weight: Tensor) -> NDArray[np.float64]:
        """Each canary's coordinate of a sum of the head's weights' gradients (outputs, D): (m,)."""
        found: NDArray[np.float64] = (weight[:, : len(self)].double().cpu().T * self.units).sum(1).numpy()
        return found


def plant(trained: Trained, clip: float) -> Canaries:
    """At most MOST canaries, on three quarters of the head's inputs: the rest is for the noise alone."""
    adapted = trained.adapted
    width = adapted.model.head.in_features
    count = max(1, min(MOST, width - max(1, width // 4)))
    scale = HUGE * max(1.0, clip)
    labels, units = _least_likely(adapted, count, scale)
    marks = Marks.of(labels, columns=torch.arange(count))
    return Canaries(public(trained, count), marks, units, scale)


def public(trained: Trained, count: int, seed: int = _SEED) -> Encoded:
    """`count` made-up texts as the run would encode them, numbered where others have a label."""
    spec = trained.run.spec
    texts, _ = sample.generate(2 * count, seed)
    rows = numbered(trained, texts[:count], texts[count:] if trained.paired else None)
    return prepared(trained, encode(rows, trained.tokenizer, spec.representation, spec.max_length))


def numbered(trained: Trained, texts: Sequence[str], pairs: Sequence[str] | None) -> Rows:
    """Rows with their numbers for labels; where words are judged, at each of a row's words."""
    return trained.objective.placeholder_rows(texts, pairs, 0).labelled(np.arange(len(texts)))


def prepared(trained: Trained, data: Encoded) -> Encoded:
    """With the frozen features that training would have computed beforehand, where the method keeps them."""
    if not trained.adapted.frozen:
        return data
    return data.with_features(features(trained.adapted.model, data, trained.hardware))


@torch.no_grad()
def _least_likely(adapted: Adapted, count: int, scale: float) -> tuple[Tensor, Tensor]:
    """Each planted row's label, and the unit vector that its loss's gradient in the outputs has."""
    head = adapted.model.head
    outputs = head(torch.eye(head.in_features, device=head.weight.device)[:count] * scale)
    labels = adapted.objective.least_likely(outputs)
    with torch.enable_grad():
        outputs.requires_grad_(True)
        losses = adapted.objective.position_losses(outputs, labels)
        slopes = torch.autograd.grad(losses.sum(), outputs)[0].double().cpu()
    return labels.cpu(), slopes / slopes.norm(dim=1, keepdim=True)
