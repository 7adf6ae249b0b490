"""Full fine-tuning: every parameter, with ghost clipping (Li et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from dpft.models.adapted import AdaptedModel, Traits, attached, fold, plain
from dpft.models.architectures import architecture
from dpft.models.architectures.sizes import skeleton
from dpft.models.base import AdaptableModel


@dataclass(frozen=True)
class Full:
    """Full fine-tuning: all weights of the encoder (privately: Li et al. 2022, with ghost clipping). It has no options.

    Per-example gradients are never stored: memory stays close to a non-private step. The encoder is stored and run in
    float32. Where an architecture uses a weight twice, or once for all examples (ALBERT, DeBERTa, MPNet), gradients are
    computed one example at a time, which is slow.
    """

    float32: ClassVar[bool] = True  # train the stored weights, not their bfloat16 rounding
    traits: ClassVar[Traits] = Traits(parameter_sharing=False, efficient_inference=True, multi_layer=True)
    non_private_rate: ClassVar[float] = 0.0001

    def attach(self, model: AdaptableModel, seed: int) -> AdaptedModel:
        row = architecture(model.backbone.config)
        learned = [(plain(name), p) for name, p in model.backbone.named_parameters()]
        return attached(model, learned, gradients="single" if row.shared or row.common else "ghost")

    def merge(self, model: AdaptableModel) -> nn.Module:
        """A copy of the trained encoder."""
        return fold(model)

    def trainable(self, config: Any, labels: int) -> int:
        return sum(p.numel() for p in skeleton(config).parameters()) + labels * (int(config.hidden_size) + 1)


METHOD = Full
