"""Prompt slots: extra tokens right after the first one, which no representation counts as text."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from dpft.data.batch import Batch
from dpft.errors import UserError
from dpft.models.architectures import longest


def with_prompt_slots(batch: Batch, places: int) -> Batch:
    """`batch` with `places` extra tokens after the first of each row; `read` is shifted accordingly.

    Each has the first token's id, so that none counts as padding, and belongs to the first segment.
    """
    if places == 0:
        return batch

    def widened(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else torch.cat([rows[:, :1].expand(-1, places + 1), rows[:, 1:]], dim=1)

    ids = widened(batch.ids)
    assert ids is not None
    read = torch.where(batch.read > 0, batch.read + places, batch.read)
    return replace(batch, ids=ids, allowed=widened(batch.allowed), types=widened(batch.types), read=read)


def without_prompt_slots(hidden: Tensor, places: int) -> Tensor:
    """(B, T + places, D) -> (B, T, D): without the slots."""
    return hidden if places == 0 else torch.cat([hidden[:, :1], hidden[:, 1 + places :]], dim=1)


def filled(hidden: Tensor, prompt: Tensor) -> Tensor:
    """`hidden` (B, T, D) with `prompt` (B or 1, n, D) in the slots after the first token.

    Fewer tokens are a step of decoding, after the slots: they stay as they are.
    """
    if is_decoding(hidden, prompt):
        return hidden
    prompt = prompt.to(hidden.dtype).expand(hidden.shape[0], -1, -1)
    return torch.cat([hidden[:, :1], prompt, hidden[:, 1 + prompt.shape[1] :]], dim=1)


def is_decoding(hidden: Tensor, prompt: Tensor) -> bool:
    """Whether `hidden` (B, T, D) is too short for a first token and the slots: then these are in the cache already."""
    return hidden.shape[1] <= prompt.shape[1]


class PromptedEmbedding(nn.Module):
    """A word embedding whose prompt slots hold `prompt` (B or 1, n, D): (B, T) -> (B, T, D)."""

    def __init__(self, words: nn.Embedding) -> None:
        super().__init__()
        self.words = words
        self.prompt: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        assert self.prompt is not None
        return filled(self.words(ids), self.prompt)


def check_prompt_slots(backbone: nn.Module, places: int) -> None:
    """Raise UserError where prompts leave too few positions for texts."""
    most = longest(backbone) // 2
    if places > most:
        raise UserError(f"tokens must be at most {most}, half of this model's positions, got {places}; pass fewer")
