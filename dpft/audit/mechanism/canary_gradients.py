"""A run's adapted model, in whose rows the auditor may plant canaries, and whose releases he reads.

How a canary comes to have the gradient C e_i without anything being mocked: every method trains the head, a dense
layer. A planted row is an example whose representation is K times the unit vector of one of the head's inputs, K huge,
and whose label is the one that the model thinks least likely. It goes through sampler, micro-batches, encoder and
head; a forward hook, as PyTorch has them, exchanges what the head reads of it. Its loss is the method's own, so its
gradient with respect to the head's weights is K (p - y) e_j^T, with respect to the head's bias p - y, which is 1 / K
of it, and zero elsewhere; its clipped gradient is C e_i to within 1 / K, and canaries of different inputs are
orthogonal. From Opacus' hooks on, all is the shipped code.

What does not read e_i: the method's own tensors. For them other rows are weighed: their true loss is multiplied by a
factor of the auditor's, so that their gradients reach or exceed the clip in every tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from dpft.data.batch import Batch
from dpft.models.adapted import Adapted, Gradients

HUGE = 1e6


@dataclass(frozen=True)
class Marks:
    """What the auditor decides for each row: (N,) its label, its loss's factor, the input it is planted at or -1."""

    labels: Tensor
    factors: Tensor
    columns: Tensor

    @classmethod
    def of(cls, labels: Any, factors: Any = None, columns: Any = None) -> Marks:
        """Factors of 1 and no planted row, unless told."""
        labels = torch.as_tensor(labels)
        ones, none = torch.ones(len(labels)), torch.full((len(labels),), -1)
        return cls(
            labels,
            ones if factors is None else torch.as_tensor(factors, dtype=torch.float32),
            none if columns is None else torch.as_tensor(columns),
        )


class Marked:
    """`Adapted` as a private step takes it. Rows carry their number where others carry a label; where words are judged,
    at each of their words.

    `released`: what the optimizer is about to see, read where the step hands it on. Leave it as a context, for it
    keeps two hooks on the model.
    """

    def __init__(self, adapted: Adapted, marks: Marks, clip: float) -> None:
        self.adapted, self.scale = adapted, HUGE * max(1.0, clip)
        device = adapted.model.head.weight.device
        self.marks = Marks(*(getattr(marks, f.name).to(device) for f in dataclasses.fields(marks)))
        self.released: list[Tensor] = []
        self._rows = torch.empty(0, dtype=torch.int64)
        self._hooks = (
            adapted.model.register_forward_pre_hook(self._remember),
            adapted.model.head.register_forward_pre_hook(self._plant),
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
        labels, owners = self.marks.labels[rows], rows
        if rows.dim() == 2:
            labels, owners = torch.where(batch.labels < 0, batch.labels, labels), rows.amax(1)
        true = dataclasses.replace(batch, labels=labels)
        return self.adapted.losses(outputs, true) * self.marks.factors[owners]

    def begin(self, step: int) -> None:
        self.adapted.begin(step)

    def rebuild(self) -> None:
        self.released = [torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in self.private]
        self.adapted.rebuild()

    def _remember(self, model: nn.Module, inputs: tuple[Batch]) -> None:
        self._rows = inputs[0].labels

    def _plant(self, head: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        columns = torch.where(self._rows < 0, -1, self.marks.columns[self._rows.clamp(min=0)])
        planted = nn.functional.one_hot(columns.clamp(min=0), inputs[0].shape[-1]).to(inputs[0].dtype)
        return torch.where((columns >= 0).unsqueeze(-1), planted * self.scale, inputs[0])
