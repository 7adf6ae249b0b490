"""Canaries: rows with orthogonal clipped gradients of known direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpft.audit.mechanism.canary_gradients import HUGE, CanaryModel, RowSettings
from dpft.data.encoded import Encoded
from dpft.data.examples import Examples
from dpft.inference.outputs import features
from dpft.inference.trained_model import Trained
from dpft.models.adapted import AdaptedModel
from dpft.models.classifier import classifier
from dpft.tasks import sample
from dpft.tokens.encode import encode

MAX_CANARIES = 256
_SEED = 20_221


@dataclass(frozen=True)
class Canaries:
    """m canaries, row i at input i of the head. units: (m, outputs), unit vectors of the gradients in the outputs."""

    data: Encoded
    row_settings: RowSettings
    units: Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.data)

    def scaled(self, scales: Tensor) -> Canaries:
        """The same rows in a scaled space: each gradient is scaled, then clipped. scales: (outputs, D)."""
        units = self.units * scales[:, : len(self)].T
        return replace(self, units=units / units.norm(dim=1, keepdim=True))

    def expected(self, drawn: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The clipped sum of the sampled rows at clipping norm 1: head weights (outputs, m) and bias (outputs,)."""
        weight = torch.zeros(self.units.shape[1], len(self), dtype=torch.float64)
        weight[:, drawn] = self.units[drawn].T
        return weight, weight.sum(1) / self.scale

    def read(self, weight: Tensor) -> NDArray[np.float64]:
        """Each canary's coordinate in a sum of gradients of the head's weights (outputs, D): (m,)."""
        found: NDArray[np.float64] = (weight[:, : len(self)].double().cpu().T * self.units).sum(1).numpy()
        return found

    def model(self, adapted: AdaptedModel, clip: float) -> CanaryModel:
        return CanaryModel(adapted, self.row_settings, clip)

    def rescaled(self, scales: Mapping[str, Tensor]) -> Canaries:
        return self.scaled(scales["head.weight"])

    def scores(self, sums: Mapping[str, Tensor]) -> NDArray[np.float64]:
        return self.read(sums["head.weight"])

    def without(self, sums: Mapping[str, Tensor], drawn: NDArray[np.int64]) -> dict[str, Tensor]:
        left = {name: noisy.clone() for name, noisy in sums.items()}
        weight, bias = self.expected(drawn)
        left["head.weight"][:, : len(self)] -= weight
        left["head.bias"] -= bias
        return left


def make_canaries(trained: Trained, clip: float) -> Canaries:
    """At most MOST canaries, on three quarters of the head's inputs. The other inputs hold noise alone."""
    adapted = trained.adapted
    width = classifier(adapted.model).head.in_features
    count = max(1, min(MAX_CANARIES, width - max(1, width // 4)))
    scale = HUGE * max(1.0, clip)
    labels, units = _least_likely(adapted, count, scale)
    row_settings = RowSettings.of(labels, columns=torch.arange(count))
    return Canaries(placeholder_examples(trained, count), row_settings, units, scale)


def placeholder_examples(trained: Trained, count: int, seed: int = _SEED) -> Encoded:
    """`count` generated texts, encoded as in the run, with row numbers as labels."""
    spec = trained.run.spec
    texts, _ = sample.generate(2 * count, seed)
    rows = numbered(trained, texts[:count], texts[count:] if trained.paired else None)
    return prepared(trained, encode(rows, trained.tokenizer, spec.representation, spec.max_length))


def numbered(trained: Trained, texts: Sequence[str], pairs: Sequence[str] | None) -> Examples:
    """Rows with their row numbers as labels; where words are labelled, at each word of a row."""
    return trained.objective.placeholder_rows(texts, pairs, 0).labelled(np.arange(len(texts)))


def prepared(trained: Trained, data: Encoded) -> Encoded:
    """`data` with the frozen features that training computes beforehand, where the method uses them."""
    if not trained.adapted.frozen:
        return data
    return data.with_features(features(trained.adapted.model, data, trained.hardware))


@torch.no_grad()
def _least_likely(adapted: AdaptedModel, count: int, scale: float) -> tuple[Tensor, Tensor]:
    """Each canary's label, and the unit vector of its loss's gradient in the outputs."""
    head = classifier(adapted.model).head
    outputs = head(torch.eye(head.in_features, device=head.weight.device)[:count] * scale)
    labels = adapted.objective.least_likely(outputs)
    with torch.enable_grad():
        outputs.requires_grad_(True)
        losses = adapted.objective.position_losses(outputs, labels)
        slopes = torch.autograd.grad(losses.sum(), outputs)[0].double().cpu()
    return labels.cpu(), slopes / slopes.norm(dim=1, keepdim=True)
