"""BitFit: every bias and nothing else (Ben Zaken et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from dpft.errors import UserError
from dpft.models.adapted import AdaptedModel, Traits, attached, fold, modules_named, way
from dpft.models.architectures import replace
from dpft.models.architectures.sizes import skeleton
from dpft.models.base import AdaptableModel
from dpft.models.dense_modules import Shift


class BiasedLayer(nn.Module):
    """A layer with a trained change of its bias; input and output shapes are the layer's."""

    def __init__(self, layer: nn.Linear | nn.LayerNorm) -> None:
        super().__init__()
        self.layer = layer
        self.shift = Shift(len(layer.bias))

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.shift(self.layer(hidden))
        return out

    def folded(self) -> nn.Module:
        self.layer.bias.add_(self.shift.value.to(self.layer.bias.dtype))
        return self.layer


@dataclass(frozen=True)
class Bitfit:
    """Bias-term fine-tuning: all biases of the encoder, those of layer norms too (Ben Zaken et al. 2022, section 3).

    It has no options. The trainable parameters are the change of each bias, in float32.
    """

    traits: ClassVar[Traits] = Traits(parameter_sharing=False, efficient_inference=True, multi_layer=True)
    non_private_rate: ClassVar[float] = 0.002

    def attach(self, model: AdaptableModel, seed: int) -> AdaptedModel:
        layers = _biased(model.backbone)
        for path, layer in layers.items():
            replace(model.backbone, path, BiasedLayer(layer))
        learned = [(name, site.shift.value) for name, site in modules_named(model, BiasedLayer).items()]
        return attached(model, learned, gradients=way(model, ("query", "key")))

    def merge(self, model: AdaptableModel) -> nn.Module:
        """A copy of the stock backbone with the changed biases: the same outputs."""
        return fold(model)

    def trainable(self, config: Any, labels: int) -> int:
        biases = sum(len(layer.bias) for layer in _biased(skeleton(config)).values())
        return biases + labels * (int(config.hidden_size) + 1)


def _biased(backbone: nn.Module) -> dict[str, Any]:
    """The layers with a bias, by path. Raises UserError where there is none."""
    modules = backbone.named_modules()
    found = {n: m for n, m in modules if isinstance(m, nn.Linear | nn.LayerNorm) and m.bias is not None}
    if not found:
        raise UserError("bitfit trains biases, got a model without any; pass another --method")
    return found


METHOD = Bitfit
