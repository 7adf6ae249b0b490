"""RGP: full matrices, updated through low-rank gradient carriers (Yu et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dpft.methods.lora import dense_names
from dpft.models.adapted import AdaptedModel, Traits, attached, check_count, fold, modules_named, way
from dpft.models.architectures import dense_layers, replace
from dpft.models.architectures.sizes import dense_sizes
from dpft.models.base import AdaptableModel
from dpft.models.dense_modules import Dense as Trained
from dpft.spec import HEAD


class CarriedDense(nn.Module):
    """A dense layer whose gradient is computed through carriers: hidden (B, T, in) -> (B, T, out).

    The layer computes (W + change) x. `left` (out, r) and `right` (r, in) have orthonormal columns and rows; they
    add nothing to the value and see the gradient that W = (W - L R) + L R would hand them.
    """

    def __init__(self, dense: nn.Linear, rank: int) -> None:
        super().__init__()
        self.dense = dense
        self.change = nn.Parameter(torch.zeros(dense.out_features, dense.in_features), requires_grad=False)
        self.right = Trained(torch.zeros(rank, dense.in_features))
        self.left = Trained(torch.zeros(dense.out_features, rank))
        self._changed: tuple[tuple[int, torch.dtype], Tensor] | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = nn.functional.linear(hidden, self._weight(), self.dense.bias)
        carried = self.left(self.right(hidden.detach()))  # detached: W already gives the input's gradient
        out = out + (carried - carried.detach())
        return out

    @torch.no_grad()
    def carry(self, generator: torch.Generator) -> None:
        """New carriers by one power iteration on the change so far, or on noise before any change."""
        start = torch.randn(self.left.weight.shape, generator=generator).to(self.change)
        history: Tensor = self.change
        if not bool(history.any()):
            history = torch.randn(history.shape, generator=generator).to(self.change)
        left = torch.linalg.qr(history @ (history.T @ start)).Q
        self.left.weight.copy_(left)
        self.right.weight.copy_(torch.linalg.qr(history.T @ left).Q.T)

    @torch.no_grad()
    def rebuild(self) -> None:
        """The gradient of W from the carriers': dL R + L dR - L L^T dL R (Yu et al. 2021, section 3.2)."""
        left, right = self.left.weight, self.right.weight
        if left.grad is not None and right.grad is not None:
            across = left.grad - left @ (left.T @ left.grad)
            self.change.grad = across @ right + left @ right.grad
        left.grad = right.grad = None

    def folded(self) -> nn.Linear:
        self.dense.weight.add_(self.change.to(self.dense.weight.dtype))
        return self.dense

    @torch.no_grad()
    def _weight(self) -> Tensor:
        """W + change in W's precision, cached for each value of the change."""
        made = (self.change._version, self.dense.weight.dtype)
        if self._changed is None or self._changed[0] != made:
            with torch.inference_mode(False):  # autograd refuses a tensor that was made in inference mode
                weight = (self.dense.weight.to(self.change.dtype) + self.change).to(self.dense.weight.dtype)
            self._changed = made, weight
        return self._changed[1]


@dataclass(frozen=True)
class CarriedModel(AdaptedModel):
    """An adapted model whose private parameters are the carriers of those that the optimizer updates."""

    sites: tuple[CarriedDense, ...] = ()
    moved: dict[str, nn.Parameter] | None = None
    seed: int = 0

    @property
    def updated(self) -> dict[str, nn.Parameter]:
        assert self.moved is not None
        return self.moved

    def begin(self, step: int) -> None:
        seed = np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(seed[0]) >> 1)
        for site in self.sites:
            site.carry(generator)

    def rebuild(self) -> None:
        for site in self.sites:
            site.rebuild()


@dataclass(frozen=True)
class Rgp:
    """Reparametrised gradient perturbation: matrices moved by noisy gradients of low-rank carriers (Yu et al. 2021).

    rank: r of the carriers. targets: dense layers, as for lora. At each step the carriers L, R of each matrix are
    found by one power iteration on its change so far, which contains only noisy releases. Their gradients are
    privatised, and the matrix is updated by dL R + L dR - L L^T dL R. Private parameters: r (in + out) a target. The
    change of each whole matrix is saved. The default rank is Yu et al.'s for BERT.
    """

    rank: int = 1
    targets: str = "query,key,value,attention,intermediate,output"
    traits: ClassVar[Traits] = Traits(parameter_sharing=False, efficient_inference=True, multi_layer=True)
    non_private_rate: ClassVar[float] = 0.0003

    def __post_init__(self) -> None:
        check_count("rank", self.rank)
        dense_names(self.targets)

    def attach(self, model: AdaptableModel, seed: int) -> AdaptedModel:
        names = dense_names(self.targets)
        for block, path in dense_layers(model.backbone, names):
            dense = block.get_submodule(path)
            assert isinstance(dense, nn.Linear)
            check_count("rank", self.rank, min(dense.in_features, dense.out_features))
            replace(block, path, CarriedDense(dense, self.rank))
        sites: dict[str, CarriedDense] = modules_named(model, CarriedDense)
        carriers = [(f"{n}.{side}", getattr(s, side).weight) for n, s in sites.items() for side in ("left", "right")]
        adapted = attached(model, carriers, gradients=way(model, names))
        head = {name: p for name, p in adapted.named.items() if name.startswith(HEAD)}
        moved = {**{f"{n}.change": s.change for n, s in sites.items()}, **head}
        common = {f.name: getattr(adapted, f.name) for f in fields(adapted)}
        return CarriedModel(**common, sites=tuple(sites.values()), moved=moved, seed=seed)

    def merge(self, model: AdaptableModel) -> nn.Module:
        """A copy of the stock backbone with the changes added to the weights: the same outputs."""
        return fold(model)

    def trainable(self, config: Any, labels: int) -> int:
        sizes = dense_sizes(config, dense_names(self.targets))
        check_count("rank", self.rank, min(min(size) for size in sizes))
        return self.rank * sum(i + o for i, o in sizes) + labels * (int(config.hidden_size) + 1)


METHOD = Rgp
