"""BitFit: every bias and nothing else (Ben Zaken et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from dpft.errors import UserError
from dpft.models.adapted import AdaptedModel, Traits, attached, fold, modules_named, way
from dpft.models.architectures import architecture, replace
from dpft.models.architectures.sizes import skeleton
from dpft.models.base import AdaptableModel
from dpft.models.dense_modules import Scale, Shift
from dpft.privacy.mechanism.grad_samplers import is_rms_norm


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


class ScaledNorm(nn.Module):
    """A norm with a trained relative change of its weight; input and output shapes are the norm's."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.shift = Scale(len(layer.weight))

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.shift(self.layer(hidden))
        return out

    def folded(self) -> nn.Module:
        weight = self.layer.weight
        one = 1.0 if type(self.layer).__name__.startswith("Gemma") else 0.0  # Gemma multiplies by 1 + weight
        weight.copy_((weight.to(self.shift.value.dtype) + one) * (1 + self.shift.value) - one)
        return cast(nn.Module, self.layer)


@dataclass(frozen=True)
class Bitfit:
    """Bias-term fine-tuning: all biases of the model, those of layer norms too (Ben Zaken et al. 2022, section 3).

    It has no options. The trainable parameters are the change of each bias, in float32. Most decoders have no biases
    (Llama, Mistral, Qwen 3, Gemma, Phi-3, OLMo 2, SmolLM3): there, instead, the weights of all norms are trained, as a
    relative change of each. Qwen 2 has biases of query, key and value; GPT-2, GPT-NeoX and OPT have them everywhere.
    """

    traits: ClassVar[Traits] = Traits(parameter_sharing=False, efficient_inference=True, multi_layer=True)
    non_private_rate: ClassVar[float] = 0.002

    def attach(self, model: AdaptableModel, seed: int) -> AdaptedModel:
        layers = _layers(model.backbone)
        for path, layer in layers.items():
            replace(model.backbone, path, ScaledNorm(layer) if is_rms_norm(layer) else BiasedLayer(layer))
        sites = {**modules_named(model, BiasedLayer), **modules_named(model, ScaledNorm)}
        learned = [(name, site.shift.value) for name, site in sites.items()]
        return attached(model, learned, gradients=way(model, ("query", "key")))

    def merge(self, model: AdaptableModel) -> nn.Module:
        """A copy of the stock model with the changed biases: the same outputs."""
        return fold(model)

    def trainable(self, config: Any, labels: int) -> int:
        layers = _layers(skeleton(config)).values()
        return sum(len(layer.weight if is_rms_norm(layer) else layer.bias) for layer in layers) + labels * (
            int(config.hidden_size) + 1
        )


def _layers(backbone: nn.Module) -> dict[str, Any]:
    """The layers with a bias, by path; in a decoder without any, its norms. Raises UserError where there is neither."""
    modules = list(backbone.named_modules())
    found = {n: m for n, m in modules if isinstance(m, nn.Linear | nn.LayerNorm) and m.bias is not None}
    if not found and architecture(backbone.config).decoder:
        return {n: m for n, m in modules if is_rms_norm(m)}
    if not found:
        raise UserError("bitfit trains biases, got a model without any; pass another --method")
    return found


METHOD = Bitfit
