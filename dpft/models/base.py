"""What methods, steps and measurements need of a model: a frozen stock backbone that a method adapts."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from dpft.data.batch import Batch
from dpft.models.architectures import Dense, architecture
from dpft.spec import Representation


class AdaptableModel(nn.Module):
    """A frozen stock model, `backbone`, into which a method inserts its modules: Batch -> (B, ..., output_count).

    Where these need per-batch input, the method puts one module into `before`, which is called with one row per example
    (one row in all where gradients are not `per_example`). `prompts` is the number of slots after the first token that
    a method fills. The backbone is always in eval mode: no dropout, nothing that couples examples. `digest` names the
    pretrained weights it came with. `probe_rows`: the number of rows that measurements repeated for each tensor use.
    """

    backbone: Any
    probe_rows = 32

    def __init__(self, representation: Representation, digest: str = "") -> None:
        super().__init__()
        self.representation = representation
        self.digest = digest
        self.before: nn.Module | None = None
        self.per_example = False
        self.prompts = 0

    def train(self, mode: bool = True) -> Self:
        """Training mode for everything but the backbone, so that its dropout stays off.

        Modules inside it whose own parameters are trained are in training mode: Opacus' hooks look at no others.
        """
        super().train(mode)
        self.backbone.eval()
        for module in self.backbone.modules():
            if any(p.requires_grad for p in module.parameters(recurse=False)):
                module.training = mode
        return self

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        found: torch.device = next(self.parameters()).device
        return found

    @property
    def output_count(self) -> int:
        """The number of columns of the outputs."""
        raise NotImplementedError

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the head, which every method trains, by name; none where the model has no head."""
        return {}

    def statistics(self) -> dict[str, Tensor]:
        """Tensors that are saved beside the trained ones and are not trained."""
        return {}

    def initialise(self, seed: int, reach: float | None = None, start: float = 0.0) -> None:
        """Start the head with random weights from the public seed, of typical output `reach`, and the bias `start`.

        Without `reach` the weights stay as they are. Nothing happens where there is no head.
        """

    def read_for_drift(self, batch: Batch) -> Tensor:
        """What noise on the trained tensors must not move: (N, D), in float32 or better."""
        raise NotImplementedError

    def stock(self) -> nn.Module:
        """A copy of the stock model; a method's modules stay inside."""
        found: nn.Module = copy.deepcopy(self.backbone)
        return found

    def with_biases(self, stock: nn.Module, position: Dense) -> None:
        """Give the dense layers at `position` in `stock` zero biases where they have none and its class has a place."""

    def completed(self, stock: nn.Module) -> nn.Module:
        """`stock()`, after a method's modules were merged: an ordinary model of transformers."""
        return stock

    def call_before(self, batch: Batch) -> None:
        """Call the method's module for this batch."""
        if self.before is not None:
            self.before(batch.ids.new_empty(len(batch) if self.per_example else 1, 0))

    def positions(self, ids: Tensor) -> dict[str, Tensor]:
        """Position ids (B, T) where the backbone makes one row for all examples.

        From one row, a position table gets no per-example gradient.
        """
        if not architecture(self.backbone.config).counted:
            return {}
        count = torch.arange(ids.shape[1], device=ids.device)
        return {"position_ids": count.expand_as(ids).contiguous()}
