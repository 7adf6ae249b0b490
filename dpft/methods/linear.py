"""The head alone: a linear classifier on frozen features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from dpft.errors import UserError
from dpft.models.adapted import AdaptedModel, Traits, attached, fold
from dpft.models.architectures import architecture
from dpft.models.base import AdaptableModel


@dataclass(frozen=True)
class Linear:
    """The linear classifier of the paper's table 2: the head on a frozen encoder. It has no options.

    The encoder's features are computed once for all steps. Trainable parameters: C(D + 1).
    """

    traits: ClassVar[Traits] = Traits(parameter_sharing=False, efficient_inference=True, multi_layer=False)
    non_private_rate: ClassVar[float] = 0.03
    head_alone: ClassVar[bool] = True

    def attach(self, model: AdaptableModel, seed: int) -> AdaptedModel:
        _check(model.backbone.config)
        return replace(attached(model, []), frozen=True)

    def merge(self, model: AdaptableModel) -> nn.Module:
        """The unchanged stock backbone."""
        return fold(model)

    def trainable(self, config: Any, labels: int) -> int:
        _check(config)
        return labels * (int(config.hidden_size) + 1)


def _check(config: Any) -> None:
    """Raise UserError for a language model."""
    if architecture(config).decoder:
        raise UserError(
            f"linear trains a head, got the language model {config.model_type}, which has none to train; "
            "pass --method lora"
        )


METHOD = Linear
