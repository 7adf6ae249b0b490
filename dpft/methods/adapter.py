"""Adapters: a small bottleneck after a block's dense layers (Houlsby et al. 2019; Pfeiffer et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from dpft.models.adapted import AdaptedModel, CannotMerge, Traits, attached, check_choice, check_count
from dpft.models.architectures import Dense, dense_layers, replace
from dpft.models.architectures.sizes import dense_sizes
from dpft.models.base import AdaptableModel
from dpft.models.dense_modules import Dense as Trained

Style = Literal["houlsby", "pfeiffer"]
PLACES: dict[str, tuple[Dense, ...]] = {"houlsby": ("attention", "output"), "pfeiffer": ("output",)}


class AdaptedDense(nn.Module):
    """A dense layer with an adapter on its output: (B, T, in) -> (B, T, out)."""

    def __init__(self, dense: nn.Linear, adapter: nn.Module) -> None:
        super().__init__()
        self.dense, self.adapter = dense, adapter

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.dense(hidden)
        out = out + self.adapter(out)
        return out


class Bottleneck(nn.Module):
    """up(gelu(down(h))): (B, T, D) -> same. It starts at zero, so the model starts as it was."""

    def __init__(self, width: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = Trained(torch.randn(size, width, generator=generator) * width**-0.5, torch.zeros(size))
        self.up = Trained(torch.zeros(width, size), torch.zeros(width))

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.up(nn.functional.gelu(self.down(hidden)))
        return out


@dataclass(frozen=True)
class Adapter:
    """Bottleneck adapters: h + up(gelu(down(h))) after dense layers (Houlsby et al. 2019, section 2.1).

    bottleneck: m. style: "houlsby" puts two into each block, after attention and after the feed-forward; "pfeiffer"
    the latter alone (Pfeiffer et al. 2021). Both act before the residual is added. Each has 2 D m + D + m
    trainable parameters. m is that of Yu et al. 2022 for private RoBERTa, rounded down.
    """

    bottleneck: int = 16
    style: Style = "houlsby"
    traits: ClassVar[Traits] = Traits(parameter_sharing=False, efficient_inference=False, multi_layer=True)
    non_private_rate: ClassVar[float] = 0.002

    def __post_init__(self) -> None:
        check_count("bottleneck", self.bottleneck, example=16)
        check_choice("style", self.style, get_args(Style))

    def attach(self, model: AdaptableModel, seed: int) -> AdaptedModel:
        check_count("bottleneck", self.bottleneck, int(model.backbone.config.hidden_size), example=16)
        generator = torch.Generator().manual_seed(seed)
        learned = insert_adapters(
            model, PLACES[self.style], lambda width: Bottleneck(width, self.bottleneck, generator)
        )
        return attached(model, learned)

    def merge(self, model: AdaptableModel) -> nn.Module:
        raise CannotMerge("an adapter computes something that the stock layers cannot")

    def trainable(self, config: Any, labels: int) -> int:
        check_count("bottleneck", self.bottleneck, int(config.hidden_size), example=16)
        sizes = dense_sizes(config, PLACES[self.style])
        each = sum(2 * out * self.bottleneck + out + self.bottleneck for _, out in sizes)
        return each + labels * (int(config.hidden_size) + 1)


def insert_adapters(model: AdaptableModel, places: tuple[Dense, ...], make: Any) -> list[tuple[str, nn.Parameter]]:
    """Insert `make(width)` after each block's dense layers at `places`. Returns its parameters by name."""
    learned = []
    for number, (block, path) in enumerate(dense_layers(model.backbone, places)):
        dense = block.get_submodule(path)
        assert isinstance(dense, nn.Linear)
        adapter = make(dense.out_features)
        replace(block, path, AdaptedDense(dense, adapter))
        learned += [(f"adapter.{number}.{name}", p) for name, p in adapter.named_parameters()]
    return learned


METHOD = Adapter
