"""Cross-entropy over a large vocabulary in chunks of positions: the (B, T, V) logits never exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_LOGITS = 2**24  # numbers in one chunk's logits: 64 MiB in float32


@dataclass(frozen=True)
class FrozenHead:
    """The language-model head: hidden states to logits, which is not trained.

    weight: (V, D). bias: (V,) or None. cap: logits are cap * tanh(logits / cap) (Gemma 2); None for as they are.
    chunk: positions at a time; None for as many as keep the logits small.
    """

    weight: Tensor
    bias: Tensor | None = None
    cap: float | None = None
    chunk: int | None = None

    @property
    def positions(self) -> int:
        """Positions at a time."""
        return self.chunk or max(1, _LOGITS // self.weight.shape[0])

    def logits(self, hidden: Tensor) -> Tensor:
        """(K, D) -> (K, V) in float32 or better."""
        raw = nn.functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        logits = raw.to(torch.promote_types(hidden.dtype, torch.float32))
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def surprise(self, hidden: Tensor, targets: Tensor, gradients: Tensor | None) -> Tensor:
        """Minus the log-probability, in nats, of each target: (K, D), (K,) -> (K,) in float32 or better.

        The gradients with respect to `hidden` are written into `gradients`, (K, D), where it is given.
        """
        found = hidden.new_empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for start in range(0, len(hidden), self.positions):
            part = slice(start, start + self.positions)
            logits = self.logits(hidden[part])
            whole, target = torch.logsumexp(logits, 1, keepdim=True), targets[part].unsqueeze(1)
            found[part] = (whole - logits.gather(1, target)).squeeze(1)
            if gradients is not None:
                errors = torch.exp(logits - whole)
                errors.scatter_add_(1, target, errors.new_full(target.shape, -1.0))
                if self.cap is not None:
                    errors *= 1 - (logits / self.cap).square()
                gradients[part] = (errors.to(self.weight.dtype) @ self.weight).to(gradients.dtype)
        return found


class _Surprise(torch.autograd.Function):
    """(B, T, D) -> (B, T): a position's gradient is computed with its value, so that nothing is computed twice."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, labels: Tensor, head: FrozenHead) -> Tensor:
        at = (labels >= 0).nonzero(as_tuple=True)
        chosen = hidden[at]
        gradients = torch.empty_like(chosen) if ctx.needs_input_grad[0] else None
        found = head.surprise(chosen, labels[at], gradients)
        out = found.new_zeros(labels.shape)
        out[at] = found
        if gradients is not None:
            ctx.save_for_backward(gradients, *at)
            ctx.shape = hidden.shape
        return out

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Tensor, None, None]:
        gradients, *at = ctx.saved_tensors
        found = gradients.new_zeros(ctx.shape)
        found[tuple(at)] = (gradients * errors[0][tuple(at)].unsqueeze(1)).to(gradients.dtype)
        return found, None, None


def surprise(hidden: Tensor, labels: Tensor, head: FrozenHead) -> Tensor:
    """Minus the log-probability, in nats, of each position's label: (B, T, D), (B, T) -> (B, T), 0 where label < 0.

    In float32 or better. Only `hidden` gets a gradient. Memory: one chunk of logits, and one gradient a position.
    """
    found: Tensor = _Surprise.apply(hidden, labels, head)  # type: ignore[no-untyped-call]
    return found
