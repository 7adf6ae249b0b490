"""Shared trainable vectors whose per-example gradient is exact and costs one matrix product."""

from __future__ import annotations

from typing import Any

import torch
from opacus.grad_sample import register_grad_sampler
from torch import Tensor, nn


class PerExample(nn.Module):
    """A trainable value handed out once per example: rows (B, ...) -> (B, *value.shape).

    Its gradient with respect to each copy *is* the per-example gradient, so nothing needs to be computed.
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, rows: Tensor) -> Tensor:
        return self.value.expand(rows.shape[0], *self.value.shape)


@register_grad_sampler(PerExample)  # type: ignore[untyped-decorator]
def per_example_gradient(
    module: PerExample, activations: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """backprops (B, *shape) -> {value: (B, *shape)}."""
    return {module.value: backprops}


class _ProjectCopies(torch.autograd.Function):
    """copies @ weight.T where all copies are equal: one row is projected, every row gets its own gradient."""

    @staticmethod
    def forward(ctx: Any, copies: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return (copies[:1] @ weight.T).expand(copies.shape[0], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return gradients[0] @ weight, None


class Projection(nn.Module):
    """A fixed random matrix applied to equal copies of one vector: (B, d) -> (B, sum of d'_l).

    Only for the output of `PerExample`: row 0 stands for all rows. The matrix is not saved; it comes from
    the seed.
    """

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, copies: Tensor) -> Tensor:
        projected: Tensor = _ProjectCopies.apply(copies, self.weight)  # type: ignore[no-untyped-call]
        return projected
