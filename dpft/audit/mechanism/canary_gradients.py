"""The run's adapted model with canaries: examples whose gradients the auditor sets, through the shipped code.

A canary gets the gradient C e_i without mocks, as follows. Every method trains the head, a dense layer. A canary's
representation is K times the unit vector of one input of the head, with a huge K; its label is the one the model finds
least likely. It passes sampler, micro-batches, encoder and head like any example; a PyTorch forward hook replaces the
representation that the head reads. The loss is the method's own. So the gradient is K (p - y) e_j^T for the head's
weights, p - y for its bias (1 / K of that), and zero elsewhere. The clipped gradient is C e_i to within 1 / K, and
canaries at different inputs are orthogonal. From Opacus' hooks on, all code is the shipped code.

Canaries have no gradient in the method's own tensors. For these the auditor scales the loss of other rows by a factor,
so that their gradients reach or exceed the clipping norm in every tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dpft.data.batch import Batch
from dpft.data.words import IGNORED
from dpft.models.adapted import AdaptedModel, Gradients
from dpft.models.classifier import classifier

HUGE = 1e6


@dataclass(frozen=True)
class RowSettings:
    """The auditor's settings for N rows, each (N,): label, factor of the loss, the direction of a canary or -1.

    A direction is the number of an input of the head, or of a probe (hidden_canaries).
    """

    labels: Tensor
    factors: Tensor
    columns: Tensor

    @classmethod
    def of(cls, labels: Any, factors: Any = None, columns: Any = None) -> RowSettings:
        """By default all factors are 1 and no row is a canary."""
        labels = torch.as_tensor(labels)
        ones, none = torch.ones(len(labels)), torch.full((len(labels),), -1)
        return cls(
            labels,
            ones if factors is None else torch.as_tensor(factors, dtype=torch.float32),
            none if columns is None else torch.as_tensor(columns),
        )

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.labels, self.factors, self.columns


class CanaryModel:
    """An adapted model with canaries, with the interface that a private step needs.

    Rows carry their row number as label; where words are labelled, at each word. `released`: the noisy sums that the
    step hands to the optimizer. Use it as a context manager: it holds two hooks on the model.
    """

    def __init__(self, adapted: AdaptedModel, row_settings: RowSettings, clip: float) -> None:
        self.adapted, self.scale = adapted, HUGE * max(1.0, clip)
        device = adapted.model.device
        self.row_settings = RowSettings(
            *(getattr(row_settings, f.name).to(device) for f in dataclasses.fields(row_settings))
        )
        self.released: list[Tensor] = []
        self._rows = torch.empty(0, dtype=torch.int64)
        self._hooks: tuple[RemovableHandle, ...] = (
            adapted.model.register_forward_pre_hook(self._remember),
            classifier(adapted.model).head.register_forward_pre_hook(self._replace),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()

    @property
    def model(self) -> nn.Module:
        return self.adapted.model

    @property
    def private(self) -> Sequence[nn.Parameter]:
        return self.adapted.private

    @property
    def gradients(self) -> Gradients:
        return self.adapted.gradients

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        rows = batch.labels.clamp(min=0)
        labels = self.row_settings.labels[rows]
        labels[batch.labels < 0] = IGNORED
        owners = rows.unsqueeze(-1).flatten(1).amax(1)
        true = dataclasses.replace(batch, labels=labels)
        return self.adapted.losses(outputs, true) * self.row_settings.factors[owners]

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Learn of the optimizer, whose scales are public. Here scales need no preparation."""

    def begin(self, step: int) -> None:
        self.adapted.begin(step)

    def rebuild(self) -> None:
        self.released = [torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in self.private]
        self.adapted.rebuild()

    def _remember(self, model: nn.Module, inputs: tuple[Batch]) -> None:
        self._rows = inputs[0].labels

    def _replace(self, head: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        columns = torch.where(self._rows < 0, -1, self.row_settings.columns[self._rows.clamp(min=0)])
        canaries = nn.functional.one_hot(columns.clamp(min=0), inputs[0].shape[-1]).to(inputs[0].dtype)
        return torch.where((columns >= 0).unsqueeze(-1), canaries * self.scale, inputs[0])
