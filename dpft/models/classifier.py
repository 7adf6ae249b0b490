"""The trained model: a frozen encoder, one representation, one linear head (paper, section 2)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dpft.data.batch import Batch
from dpft.errors import UserError
from dpft.models.architectures import architecture, block_paths, replace
from dpft.models.base import AdaptableModel
from dpft.models.one_token_block import OneTokenBlock
from dpft.models.prompt_slots import with_prompt_slots, without_prompt_slots
from dpft.spec import Representation


class Classifier(AdaptableModel):
    """Batch -> logits in float32: (B, outputs), or (B, T, outputs) where the head reads every `token`.

    The head reads `(representation - center) * spread`, public vectors that fold into its weights: see `standardise`.
    """

    def __init__(self, backbone: Any, outputs: int, representation: Representation, digest: str = "") -> None:
        super().__init__(representation, digest)
        self.backbone = backbone.requires_grad_(False)
        width = backbone.config.hidden_size
        self.center: Tensor
        self.spread: Tensor
        self.register_buffer("center", torch.zeros(width), persistent=False)
        self.register_buffer("spread", torch.ones(width), persistent=False)
        self.head = nn.Linear(width, outputs)
        row = architecture(backbone.config)
        taken = inspect.signature(backbone.forward).parameters
        self._typed, self._counted = "token_type_ids" in taken, row.counted and "position_ids" in taken
        # A tuple: registered in the backbone alone. Under two parents, Opacus would count its gradients twice.
        self._one_token: tuple[OneTokenBlock, ...] = ()
        if representation in ("mask", "cls") and row.one is not None:
            last = block_paths(backbone)[-1]
            self._one_token = (OneTokenBlock(backbone.get_submodule(last), row.one),)
            replace(backbone, last, self._one_token[0])
        self.train()

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def output_count(self) -> int:
        return self.head.out_features

    def head_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.head.named_parameters(prefix="head"))

    def statistics(self) -> dict[str, Tensor]:
        """The vectors that standardise the head's input."""
        return {"head.center": self.center, "head.spread": self.spread}

    def initialise(self, seed: int, reach: float | None = None, start: float = 0.0) -> None:
        if reach is not None:
            initialise_head(self.head, seed, reach)
        with torch.no_grad():
            self.head.bias.fill_(start)

    def read_for_drift(self, batch: Batch) -> Tensor:
        """The head's input for every text (or token), standardised by its spread."""
        self.call_before(batch)
        read = (self.represent(batch).float() - self.center) * self.spread
        return _there(read, batch.allowed)

    def forward(self, batch: Batch) -> Tensor:
        self.call_before(batch)
        read = self.represent(batch).to(self.head.weight.dtype)
        logits: Tensor = self.head((read - self.center) * self.spread)
        return logits

    @torch.no_grad()
    def standardise(self, public: Iterable[Batch]) -> None:
        """Standardise the head's input by its mean and deviation over `public` texts, to about unit norm.

        Otherwise the part that all texts share would dominate the head's per-example gradients and use up the clipping
        norm, leaving little for the differences between texts and for the method's parameters. `public` contains no
        training row, so this costs no privacy. Call it before a method is attached.
        """
        read = torch.cat([_there(self.represent(batch).float(), batch.allowed) for batch in public])
        deviation = read.std(0)
        self.center = read.mean(0)
        self.spread = 1 / (deviation.clamp(min=deviation.mean() / 10 + 1e-6) * read.shape[1] ** 0.5)

    def represent(self, batch: Batch) -> Tensor:
        """The head's input: (B, D), or (B, T, D) of every token; the batch's frozen features where it has them."""
        if batch.features is not None:
            return batch.features
        roomy = with_prompt_slots(batch, self.prompts)
        for one in self._one_token:
            one.read, one.allowed = roomy.read, roomy.allowed
        hidden: Tensor = self.backbone(**self._inputs(roomy)).last_hidden_state
        if self.representation == "token":
            return without_prompt_slots(hidden, self.prompts)
        if self.representation == "mean":
            return _mean(without_prompt_slots(hidden, self.prompts).to(self.head.weight.dtype), batch.allowed)
        if self._one_token:
            return hidden[:, 0]
        return hidden[torch.arange(len(batch), device=hidden.device), roomy.read]

    def stock(self) -> nn.Module:
        """A copy of the backbone with the stock last block; a method's modules stay inside."""
        backbone = super().stock()
        if self._one_token:
            last = block_paths(backbone)[-1]
            replace(backbone, last, backbone.get_submodule(f"{last}.block"))
        return backbone

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        inputs = {"input_ids": batch.ids}
        if self._typed and batch.types is not None:
            inputs["token_type_ids"] = batch.types
        if batch.allowed is not None:
            inputs["attention_mask"] = batch.allowed.long()
        if self._counted:
            inputs |= self.positions(batch.ids)
        return inputs


def classifier(model: AdaptableModel) -> Classifier:
    """`model`, where it has a head. Raises UserError for a language model."""
    if not isinstance(model, Classifier):
        raise UserError("this needs a model with a head, got a language model; take a run of a task that labels text")
    return model


def _mean(hidden: Tensor, allowed: Tensor | None) -> Tensor:
    """(B, T, D) -> (B, D): the mean over all tokens but padding."""
    if allowed is None:
        return hidden.mean(1)
    weight = allowed.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weight).sum(1) / weight.sum(1)


def _there(read: Tensor, allowed: Tensor | None) -> Tensor:
    """(B, D) unchanged; (B, T, D) -> (tokens but padding, D)."""
    if read.dim() == 2:
        return read
    return read.flatten(0, 1) if allowed is None else read[allowed]


def initialise_head(head: nn.Linear, seed: int, deviation: float = 0.02) -> None:
    """Initialise with random weights from the public seed, small by default, and a zero bias."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * deviation)
        head.bias.zero_()
