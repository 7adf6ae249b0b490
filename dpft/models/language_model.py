"""A model that writes: a frozen stock decoder with its language-model head, which stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace as replace_fields
from typing import Any

import torch
from torch import Tensor, nn

from dpft.data.batch import Batch
from dpft.data.words import IGNORED
from dpft.errors import UserError
from dpft.models.architectures import Dense, adaptable, architecture, dense_layers, restored
from dpft.models.base import AdaptableModel
from dpft.models.chunked_loss import FrozenHead, surprise
from dpft.models.prompt_slots import with_prompt_slots


class LanguageModel(AdaptableModel):
    """Batch -> (B, 2): minus the log-probability, in nats, of a row's judged tokens together, and their number.

    `labels` of a batch, (B, T), hold at each position the token that follows, or a number below 0 where it is not
    judged. `causal` is the stock AutoModelForCausalLM, and `backbone` its base model, registered in it alone. Rows
    start at position 0 wherever their padding is, and end before it: a token never sees what follows, so no attention
    mask is needed. Some layers of GPT-2 and OPT have another form here (`adaptable`), and their own in `stock()`.
    """

    causal: Any
    probe_rows = 6  # each of their tokens is read

    def __init__(self, causal: Any, digest: str = "") -> None:
        super().__init__("none", digest)
        self.causal = adaptable(causal).requires_grad_(False)
        self.center: Tensor
        self.spread: Tensor
        self.register_buffer("center", torch.zeros(()), persistent=False)
        self.register_buffer("spread", torch.ones(()), persistent=False)
        self.train()

    @property
    def backbone(self) -> Any:
        return self.causal.get_submodule(self.causal.base_model_prefix)

    @property
    def output_count(self) -> int:
        return 2

    def forward(self, batch: Batch) -> Tensor:
        self.call_before(batch)
        tidy = _from_the_left(batch)
        found = surprise(self._hidden(tidy), tidy.labels, self.head)
        return torch.stack([found.sum(1), (tidy.labels >= 0).sum(1).to(found.dtype)], dim=1)

    @property
    def head(self) -> FrozenHead:
        """The language-model head."""
        stock: Any = self.causal.get_output_embeddings()
        return FrozenHead(stock.weight, stock.bias, getattr(self.causal.config, "final_logit_softcapping", None))

    @torch.no_grad()
    def standardise(self, public: Iterable[Batch]) -> None:
        """Measure the final hidden states of `public` texts, so that `read_for_drift` has about unit norm."""
        read = torch.cat([self.read_for_drift(batch) for batch in public])
        self.center = read.mean(0)
        self.spread = 1 / (read - self.center).square().sum(1).mean().sqrt().clamp(min=1e-6)

    def read_for_drift(self, batch: Batch) -> Tensor:
        """The final hidden states at judged positions, after the final norm, standardised."""
        self.call_before(batch)
        tidy = _from_the_left(batch)
        return (self._hidden(tidy)[tidy.labels >= 0].float() - self.center) * self.spread

    def logits(self, batch: Batch) -> Tensor:
        """The logits of the token after each: (B, T, V). For few short rows: training and evaluation do without."""
        self.call_before(batch)
        return self.head.logits(self._hidden(batch))

    def stock(self) -> nn.Module:
        """A copy of the stock causal model; a method's modules stay inside."""
        return self.completed(copy.deepcopy(self.causal))

    def completed(self, stock: nn.Module) -> nn.Module:
        return restored(stock)

    def with_biases(self, stock: nn.Module, position: Dense) -> None:
        base = stock.get_submodule(self.causal.base_model_prefix)
        for option, names in architecture(base.config).biases:
            if position not in names or getattr(base.config, option):
                continue
            for block, path in dense_layers(base, names):
                layer: Any = block.get_submodule(path)
                dense = getattr(layer, "dense", layer)
                dense.bias = nn.Parameter(torch.zeros_like(dense.weight[:, 0]), requires_grad=False)
            setattr(base.config, option, True)
            setattr(stock.config, option, True)

    @torch.inference_mode()
    def generate(self, ids: Tensor, allowed: Tensor, **options: Any) -> Tensor:
        """The new tokens that `causal.generate` writes after each row: (B, T), (B, T) -> (B, new), padded at the end.

        allowed: true but at padding, which stands on the left. options: those of `generate`. Slots of a method are put
        after each row's first token, at prefill alone.
        """
        if not bool(allowed[:, -1].all()):
            raise UserError(
                "rows to write on must be padded on the left, got one that ends with padding; turn it round"
            )
        if self.before is not None:
            self.before(ids.new_empty(1, 0))
        short = allowed.sum(1) == 1
        if self.prompts == 0 or bool(short.all()) or not bool(short.any()):
            return self._written(ids, allowed, options)
        # The slots of a row of one token are its end, those of a longer row are not.
        parts = [self._written(ids[rows], allowed[rows], options) for rows in (short, ~short)]
        padding = self.causal.generation_config.pad_token_id
        new = ids.new_full((len(ids), max(part.shape[1] for part in parts)), 0 if padding is None else padding)
        for rows, part in zip((short, ~short), parts, strict=True):
            new[rows.nonzero(), torch.arange(part.shape[1], device=ids.device)] = part
        return new

    def _written(self, ids: Tensor, allowed: Tensor, options: dict[str, Any]) -> Tensor:
        if self.prompts:
            ids, allowed = _with_room(ids, allowed, self.prompts)
        found: Tensor = self.causal.generate(input_ids=ids, attention_mask=allowed.long(), **options)
        return found[:, ids.shape[1] :]

    def _hidden(self, batch: Batch) -> Tensor:
        """The hidden state that tells each next token, (B, T, D), after the final norm."""
        ids = with_prompt_slots(batch, self.prompts).ids
        hidden: Tensor = self.backbone(input_ids=ids, use_cache=False, **self.positions(ids)).last_hidden_state
        return hidden[:, self.prompts :]  # what follows the first token is told by the last slot


def _from_the_left(batch: Batch) -> Batch:
    """`batch` with every row's tokens first and its padding after them, unlabelled. ids, labels: (B, T) -> same."""
    if batch.allowed is None:
        return batch
    allowed = batch.allowed
    labels = batch.labels.masked_fill(~allowed, IGNORED)
    if bool((allowed[:, 1:] <= allowed[:, :-1]).all()):
        return replace_fields(batch, labels=labels)
    order = (~allowed).int().argsort(dim=1, stable=True)
    return replace_fields(
        batch, ids=batch.ids.gather(1, order), labels=labels.gather(1, order), allowed=allowed.gather(1, order)
    )


def _with_room(ids: Tensor, allowed: Tensor, places: int) -> tuple[Tensor, Tensor]:
    """Rows padded on the left, with `places` slots after the first token, which moves before the padding.

    Slots are always the columns after the first. A token's place among its row's tokens stays, and only that counts.
    """
    rows = torch.arange(len(ids), device=ids.device)
    first = allowed.int().argmax(1)
    start, allowed = ids[rows, first], allowed.clone()
    allowed[rows, first] = False
    kept = slice(int(first.min()) + 1, None)  # no row has a token left of it
    ids = torch.cat([start.unsqueeze(1).expand(-1, places + 1), ids[:, kept]], dim=1)
    return ids, torch.cat([allowed.new_ones(len(ids), places + 1), allowed[:, kept]], dim=1)
