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
    """Full fine-tuning: all weights of the model (privately: Li et al. 2022, with ghost clipping). It has no options.

    Per-example gradients are never stored: memory stays close to a non-private step. The model is stored and run in
    float32. Where an encoder uses a weight twice, or once for all examples (ALBERT, DeBERTa, MPNet), gradients are
    computed one example at a time, which is slow. Of a language model the output layer stays as it is, and so do the
    word vectors where they are the output layer's too (most small models tie them), and OPT's positions.
    """

    float32: ClassVar[bool] = True  # train the stored weights, not their bfloat16 rounding
    traits: ClassVar[Traits] = Traits(parameter_sharing=False, efficient_inference=True, multi_layer=True)
    non_private_rate: ClassVar[float] = 0.0001

    def attach(self, model: AdaptableModel, seed: int) -> AdaptedModel:
        row = architecture(model.backbone.config)
        gradients = "single" if row.shared or row.common else "ghost"
        return attached(model, _trained(model.backbone), gradients=gradients)  # type: ignore[arg-type]

    def merge(self, model: AdaptableModel) -> nn.Module:
        """A copy of the trained model."""
        return fold(model)

    def trainable(self, config: Any, labels: int) -> int:
        return sum(p.numel() for _, p in _trained(skeleton(config))) + labels * (int(config.hidden_size) + 1)


def _trained(backbone: Any) -> list[tuple[str, nn.Parameter]]:
    """The parameters of the backbone that are trained, by their stock names.

    In a decoder a table is one of them only where it is a plain nn.Embedding and not the output layer too: a tied one
    acts twice in each example, and others take masks (OPT's positions) or scale what they give (Gemma).
    """
    left: set[int] = set()
    if architecture(backbone.config).decoder:
        tables = [m for m in backbone.modules() if isinstance(m, nn.Embedding)]
        left = {id(m.weight) for m in tables if type(m) is not nn.Embedding}
        if backbone.config.tie_word_embeddings:
            left.add(id(backbone.get_submodule(architecture(backbone.config).words).weight))
    return [(plain(name), p) for name, p in backbone.named_parameters() if id(p) not in left]


METHOD = Full
