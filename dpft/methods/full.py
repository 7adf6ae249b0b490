"""Full fine-tuning: every parameter, with ghost clipping (Li et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from dpft.models.adapted import Adapted, Traits, attached, fold, plain
from dpft.models.architectures import architecture
from dpft.models.classifier import Classifier
from dpft.models.sizes import skeleton


@dataclass(frozen=True)
class Full:
    """Full fine-tuning: all weights of the encoder (privately: Li et al. 2022, with ghost clipping). It has no options.

    Per-example gradients are never kept: memory stays near that of a step that is not private. The encoder is kept
    and run in float32. Where an architecture uses a weight twice or once for all examples (ALBERT, DeBERTa, MPNet),
    examples are taken one at a time, which is slow.
    """

    float32: ClassVar[bool] = True  # from the weights as they are stored, not as bfloat16 rounds them
    traits: ClassVar[Traits] = Traits(parameter_sharing=False, efficient_inference=True, multi_layer=True)
    non_private_rate: ClassVar[float] = 0.0001

    def attach(self, model: Classifier, seed: int) -> Adapted:
        row = architecture(model.backbone.config)
        learned = [(plain(name), p) for name, p in model.backbone.named_parameters()]
        return attached(model, learned, gradients="single" if row.shared or row.common else "ghost")

    def merge(self, model: Classifier) -> nn.Module:
        """A copy of the encoder as it was trained."""
        return fold(model)

    def trainable(self, config: Any, labels: int) -> int:
        return sum(p.numel() for p in skeleton(config).parameters()) + labels * (int(config.hidden_size) + 1)


METHOD = Full
