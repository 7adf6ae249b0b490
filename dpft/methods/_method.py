"""The contract of a method, and what it hands back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dpft.batch import Batch
from dpft.models.heads import Classifier
from dpft.spec import UserError


class CannotMerge(ValueError):
    """Why a method's result cannot be written into the stock model's own weights."""


@dataclass(frozen=True)
class Adapted:
    """A model with a method inside: gradients are privatised on `private`, the optimizer moves `updated`.

    Both map names to parameters of `model`. `losses` gives one loss per example: (B, outputs) -> (B,).
    """

    model: Classifier
    named: dict[str, nn.Parameter]
    regression: bool = False

    @property
    def private(self) -> Sequence[nn.Parameter]:
        return list(self.named.values())

    @property
    def updated(self) -> dict[str, nn.Parameter]:
        return self.named

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        if self.regression:
            return (outputs[:, 0] - batch.labels).square()
        return nn.functional.cross_entropy(outputs, batch.labels, reduction="none")

    def state(self) -> dict[str, Tensor]:
        """All that has to be saved, on the CPU: the trained tensors, and what the head's input is standardised by."""
        return {name: t.detach().cpu().contiguous() for name, t in self._saved().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take the tensors that `state` gave. Raises UserError on other names or shapes."""
        found = {name: tuple(t.shape) for name, t in state.items()}
        wanted = {name: tuple(t.shape) for name, t in self._saved().items()}
        if found != wanted:
            raise UserError(f"the saved tensors must be {wanted}, got {found}; the run is of another model")
        with torch.no_grad():
            for name, tensor in self._saved().items():
                tensor.copy_(state[name])

    def _saved(self) -> dict[str, Tensor]:
        return {**self.updated, "head.center": self.model.center, "head.spread": self.model.spread}


class Method(Protocol):
    """One way to adapt a model. Its dataclass fields are its options."""

    def attach(self, model: Classifier, seed: int) -> Adapted: ...
    def merge(self, model: Classifier) -> nn.Module: ...
    def trainable(self, config: Any, labels: int) -> int: ...


def freeze(model: Classifier) -> None:
    """Leave the head alone trainable."""
    model.requires_grad_(False)
    model.head.requires_grad_(True)
