"""The last block for models that read one token: exact, without computing the other tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpft.models.architectures import OneToken


class OneTokenBlock(nn.Module):
    """A transformer block that computes one query: (B, T, D) -> (B, 1, D), equal to row `read` of the block.

    It runs the stock block's modules. Scores are an elementwise product and sum, because a batched matrix product with
    one row is slower. Set `read` (B,) and `allowed` (B, T) before a call.
    """

    def __init__(self, block: nn.Module, row: OneToken) -> None:
        super().__init__()
        self.block = block
        self._attention, self._mixed = row.attention, row.mixed
        self._widened, self._final = row.widened, row.final
        self.read: Tensor | None = None
        self.allowed: Tensor | None = None

    def forward(self, hidden: Tensor, attention_mask: Any = None, *unused: Any, **also_unused: Any) -> Tensor:
        assert self.read is not None
        block, batch = self.block, hidden.shape[0]
        attention: Any = block.get_submodule(self._attention)
        one = hidden[torch.arange(batch, device=hidden.device), self.read].unsqueeze(1)
        heads = (attention.num_attention_heads, attention.attention_head_size)
        query = attention.query(one).unflatten(-1, heads)
        key = attention.key(hidden).unflatten(-1, heads)
        value = attention.value(hidden).unflatten(-1, heads)
        scores = (query * key).sum(-1) * attention.scaling
        if self.allowed is not None:
            scores = scores.masked_fill(~self.allowed.unsqueeze(-1), torch.finfo(scores.dtype).min)
        mixed = (scores.softmax(1).unsqueeze(-1) * value).sum(1, keepdim=True).flatten(2)
        mixed = block.get_submodule(self._mixed)(mixed, one)
        final: Tensor = block.get_submodule(self._final)(block.get_submodule(self._widened)(mixed), mixed)
        return final
