"""LoRA: a low-rank change of dense layers (Hu et al. 2022; privately: Yu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpft.errors import UserError
from dpft.models.adapted import AdaptedModel, Traits, attached, check_count, fold, modules_named, way
from dpft.models.architectures import DENSE, Dense, dense_layers, replace
from dpft.models.architectures.sizes import dense_sizes
from dpft.models.base import AdaptableModel
from dpft.models.dense_modules import Dense as Trained


class LowRankDense(nn.Module):
    """A dense layer plus scale * B A: hidden (B, T, in) -> (B, T, out). A: (r, in), B: (out, r)."""

    def __init__(self, dense: nn.Linear, down: Tensor, scale: float) -> None:
        super().__init__()
        self.dense, self.scale = dense, scale
        self.down = Trained(down)
        self.up = Trained(torch.zeros(dense.out_features, down.shape[0]))

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.dense(hidden) + self.up(self.down(hidden)) * self.scale
        return out

    def folded(self) -> nn.Linear:
        change = self.up.weight @ self.down.weight * self.scale
        self.dense.weight.add_(change.to(self.dense.weight.dtype))
        return self.dense


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation: dense layers gain (alpha / rank) B A (Hu et al. 2022, section 4.1).

    rank: r. alpha: the scale's numerator. targets: dense layers, joined by commas, of query, key, value, attention,
    gate (of a gated feed-forward), intermediate, output; or all. freeze_a: train B alone, which privately avoids the
    product of two noises (FFA-LoRA, Sun et al. 2024). A starts as Kaiming-uniform noise from the public seed, B at
    zero. Trainable parameters: r (in + out) a target. Targets are the paper's (query, value); the rank is that of Yu
    et al. 2022, rounded.
    """

    rank: int = 8
    alpha: float = 8.0
    targets: str = "query,value"
    freeze_a: bool = False
    traits: ClassVar[Traits] = Traits(parameter_sharing=False, efficient_inference=True, multi_layer=True)
    non_private_rate: ClassVar[float] = 0.002

    def __post_init__(self) -> None:
        check_count("rank", self.rank, example=8)
        if not 0 < self.alpha <= 1e6:
            raise UserError(f"alpha must be above 0 and at most 1e6, got {self.alpha}; pass --option alpha=8")
        self.names()

    def names(self) -> tuple[Dense, ...]:
        """The targets, in the order of a block. Raises UserError for one that is no dense layer of a block."""
        return dense_names(self.targets)

    def attach(self, model: AdaptableModel, seed: int) -> AdaptedModel:
        generator = torch.Generator().manual_seed(seed)
        sites = dense_layers(model.backbone, self.names())
        for block, path in sites:
            dense = block.get_submodule(path)
            assert isinstance(dense, nn.Linear)
            check_count("rank", self.rank, min(dense.in_features, dense.out_features), example=8)
            bound = dense.in_features**-0.5  # the default of nn.Linear, as in Hu et al.'s code
            down = (torch.rand(self.rank, dense.in_features, generator=generator) * 2 - 1) * bound
            replace(block, path, LowRankDense(dense, down, self.alpha / self.rank))
        learned = []
        for name, site in modules_named(model, LowRankDense).items():
            learned += [] if self.freeze_a else [(f"{name}.down", site.down.weight)]
            learned += [(f"{name}.up", site.up.weight)]
        return attached(model, learned, gradients=way(model, self.names()))

    def merge(self, model: AdaptableModel) -> nn.Module:
        """A copy of the stock backbone with (alpha / rank) B A added to the weights: the same outputs."""
        return fold(model)

    def trainable(self, config: Any, labels: int) -> int:
        sizes = dense_sizes(config, self.names())
        check_count("rank", self.rank, min(min(size) for size in sizes), example=8)
        each = sum(o if self.freeze_a else i + o for i, o in sizes)
        return self.rank * each + labels * (int(config.hidden_size) + 1)


def dense_names(targets: str) -> tuple[Dense, ...]:
    """The dense layers named in a comma-separated list, in the order of a block; of "all" also those it may lack."""
    wanted = [t.strip() for t in targets.split(",") if t.strip()] if targets != "all" else list(DENSE)
    unknown = [t for t in wanted if t not in DENSE]
    if unknown or not wanted:
        raise UserError(
            f"targets must be of {', '.join(DENSE)}, joined by commas, got {targets!r}; "
            "pass --option targets=query,value"
        )
    return tuple(name for name in DENSE if name in wanted)


METHOD = Lora
