"""Shared trainable vectors whose exact per-example gradient costs one matrix product."""

from __future__ import annotations

from opacus.grad_sample import register_grad_sampler
from torch import Tensor, nn


class PerExample(nn.Module):
    """A trainable value handed out once per example: rows (B, ...) -> (B, *value.shape).

    The gradient of each copy is the per-example gradient, so nothing more is computed.
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
