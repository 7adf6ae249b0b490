"""Trainable modules for a block: stored in float32, computed in the block's precision."""

from __future__ import annotations

import torch
from opacus.grad_sample import register_grad_sampler
from torch import Tensor, nn


class Dense(nn.Module):
    """A small trainable dense layer: (B, ..., in) -> (B, ..., out)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, hidden: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        return nn.functional.linear(hidden, self.weight.to(hidden.dtype), bias)


@register_grad_sampler(Dense)  # type: ignore[untyped-decorator]
def dense_gradients(module: Dense, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """activations [(B, ..., in)], backprops (B, ..., out) -> {weight: (B, out, in), bias: (B, out)}."""
    errors, inputs = backprops.to(module.weight.dtype), activations[0].to(module.weight.dtype)
    found = {}
    if module.weight.requires_grad:
        found[module.weight] = torch.einsum("n...o,n...i->noi", errors, inputs)
    if module.bias is not None and module.bias.requires_grad:
        found[module.bias] = errors.flatten(1, -2).sum(1) if errors.dim() > 2 else errors
    return found


class Scale(nn.Module):
    """A trainable relative change, zero at the start, of every token's numbers: (B, ..., D) -> same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(width))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + hidden * self.value.to(hidden.dtype)


@register_grad_sampler(Scale)  # type: ignore[untyped-decorator]
def scale_gradient(module: Scale, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """activations [(B, ..., D)], backprops (B, ..., D) -> {value: (B, D)}."""
    errors = backprops.to(module.value.dtype) * activations[0].to(module.value.dtype)
    return {module.value: errors.flatten(1, -2).sum(1) if errors.dim() > 2 else errors}


class Shift(nn.Module):
    """A trainable vector, zero at the start, added to every token: (B, ..., D) -> same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(width))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.value.to(hidden.dtype)


@register_grad_sampler(Shift)  # type: ignore[untyped-decorator]
def shift_gradient(module: Shift, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """backprops (B, ..., D) -> {value: (B, D)}."""
    errors = backprops.to(module.value.dtype)
    return {module.value: errors.flatten(1, -2).sum(1) if errors.dim() > 2 else errors}
