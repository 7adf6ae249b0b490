"""The model that is trained: a frozen encoder, one representation, one linear head (paper, section 2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dpft.batch import Batch
from dpft.models.blocks import architecture, blocks
from dpft.models.one_token import OneTokenBlock
from dpft.spec import Representation


class Classifier(nn.Module):
    """Batch -> logits (B, outputs) in float32.

    A method puts its modules into `backbone` and, where they need something per batch, one module into
    `before` that is called with one row per example (one row in all where gradients are not per example).
    The backbone is always in eval mode: no dropout, nothing that couples examples. `digest` names the
    pretrained weights it came with. The head reads `(representation - center) * spread`, public vectors that
    fold into its weights: see `balance`.
    """

    def __init__(self, backbone: Any, outputs: int, representation: Representation, digest: str = "") -> None:
        super().__init__()
        self.backbone = backbone
        self.digest = digest
        width = backbone.config.hidden_size
        self.center: Tensor
        self.spread: Tensor
        self.register_buffer("center", torch.zeros(width), persistent=False)
        self.register_buffer("spread", torch.ones(width), persistent=False)
        self.representation = representation
        self.head = nn.Linear(backbone.config.hidden_size, outputs)
        self.before: nn.Module | None = None
        self.per_example = False
        self._one_token: OneTokenBlock | None = None
        if representation != "mean":
            last = blocks(backbone)
            self._one_token = OneTokenBlock(last[-1], architecture(backbone.config))
            last[-1] = self._one_token
        self.train()

    def train(self, mode: bool = True) -> Classifier:
        """Training mode for everything but the backbone, so that its dropout stays off."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        if self.before is not None:
            self.before(batch.ids.new_empty(len(batch) if self.per_example else 1, 0))
        read = self._represent(batch).to(self.head.weight.dtype)
        logits: Tensor = self.head((read - self.center) * self.spread)
        return logits

    @torch.no_grad()
    def balance(self, public: Iterable[Batch]) -> None:
        """Standardise what the head reads by its mean and deviation over `public` texts, to about unit length.

        What all texts have in common would otherwise fill the head's per-example gradients, and these the clip:
        little of it would be left for what tells the texts apart, and for the method's own parameters. `public`
        holds no training row, so this costs no privacy. Call it before a method is attached.
        """
        read = torch.cat([self._represent(batch).float() for batch in public])
        deviation = read.std(0)
        self.center = read.mean(0)
        self.spread = 1 / (deviation.clamp(min=deviation.mean() / 10 + 1e-6) * read.shape[1] ** 0.5)

    def _represent(self, batch: Batch) -> Tensor:
        if self._one_token is not None:
            self._one_token.read, self._one_token.allowed = batch.read, batch.allowed
        inputs: dict[str, Any] = {"input_ids": batch.ids}
        if batch.types is not None:
            inputs["token_type_ids"] = batch.types
        if batch.allowed is not None:
            inputs["attention_mask"] = batch.allowed.long()
        hidden: Tensor = self.backbone(**inputs).last_hidden_state
        if self.representation != "mean":
            return hidden[:, 0]
        hidden = hidden.to(self.head.weight.dtype)
        if batch.allowed is None:
            return hidden.mean(1)
        weight = batch.allowed.to(hidden.dtype).unsqueeze(-1)
        return (hidden * weight).sum(1) / weight.sum(1)


def initialise_head(head: nn.Linear, seed: int) -> None:
    """Small public random weights and a zero bias, from the public seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * 0.02)
        head.bias.zero_()
