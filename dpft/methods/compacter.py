"""Compacter: adapters of Kronecker products with shared rules (Karimi Mahabadi et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn

from dpft.errors import UserError
from dpft.methods.adapter import PLACES, Style, insert_adapters
from dpft.models.adapted import AdaptedModel, CannotMerge, Traits, attached, check_choice, check_count
from dpft.models.architectures.sizes import dense_sizes
from dpft.models.base import AdaptableModel
from dpft.models.dense_modules import Dense, Shift
from dpft.models.shared_vector import PerExample


class Rules(nn.Module):
    """The n rule matrices A_i that all layers share, one copy per example: (B, n, n, n)."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.matrices = PerExample(value)
        self.now: list[Tensor] = []

    def forward(self, rows: Tensor) -> None:
        self.now[:] = [self.matrices(rows)]


class KroneckerDense(nn.Module):
    """sum_i A_i kron (s_i t_i) x, without building the matrix: (B, T, in) -> (B, T, out).

    With x as n rows X of in/n numbers, A_i kron B_i maps it to A_i X B_i^T (Karimi Mahabadi et al. 2021, section 4).
    t_i: (r, in/n), s_i: (out/n, r).
    """

    def __init__(self, rules: list[Tensor], right: Tensor, left: Tensor) -> None:
        super().__init__()
        self._rules = rules
        self.right, self.left = Dense(right), Dense(left)

    def forward(self, hidden: Tensor) -> Tensor:
        rules = self._rules[0].to(hidden.dtype)
        n = rules.shape[1]
        narrow = self.right(hidden.unflatten(-1, (n, -1))).unflatten(-1, (n, -1))  # (B, T, n, n terms, r)
        mixed = torch.einsum("bipq,btqir->btpir", rules.expand(hidden.shape[0], -1, -1, -1), narrow)
        out: Tensor = self.left(mixed.flatten(-2)).flatten(-2)
        return out


class KroneckerBottleneck(nn.Module):
    """up(gelu(down(h))) with Kronecker layers: (B, T, D) -> same. It starts at zero."""

    def __init__(self, width: int, size: int, rank: int, rules: Rules, generator: torch.Generator) -> None:
        super().__init__()
        n = rules.matrices.value.shape[0]

        def factors(inside: int, outside: int) -> tuple[Tensor, Tensor]:
            right = torch.randn(n * rank, inside // n, generator=generator) * (inside // n) ** -0.5
            return right, torch.randn(outside // n, n * rank, generator=generator) * (n * rank) ** -0.5

        self.down = KroneckerDense(rules.now, *factors(width, size))
        right, left = factors(size, width)
        self.up = KroneckerDense(rules.now, right, torch.zeros_like(left))
        self.down_bias, self.up_bias = Shift(size), Shift(width)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.up_bias(self.up(nn.functional.gelu(self.down_bias(self.down(hidden)))))
        return out


@dataclass(frozen=True)
class Compacter:
    """Compacter: adapters whose matrices are sums of n Kronecker products (Karimi Mahabadi et al. 2021, section 4).

    bottleneck: m. terms: n, which divides the width and m. rank: of each product's second factor. style: as for
    adapter; "pfeiffer" is Compacter++. The n rule matrices are shared by all layers. Trainable parameters: n^3, and
    2 r (D + m) + D + m a place. Terms and rank are the authors' for T5, the bottleneck is theirs too, at least.
    """

    bottleneck: int = 24
    terms: int = 4
    rank: int = 1
    style: Style = "houlsby"
    traits: ClassVar[Traits] = Traits(parameter_sharing=True, efficient_inference=False, multi_layer=True)
    non_private_rate: ClassVar[float] = 0.002

    def __post_init__(self) -> None:
        for name in ("bottleneck", "terms", "rank"):
            check_count(name, getattr(self, name))
        check_choice("style", self.style, get_args(Style))
        if self.bottleneck % self.terms:
            raise UserError(
                f"terms must divide the bottleneck {self.bottleneck}, got {self.terms}; pass --option terms=4"
            )

    def attach(self, model: AdaptableModel, seed: int) -> AdaptedModel:
        self._check(model.backbone.config)
        generator = torch.Generator().manual_seed(seed)
        n = self.terms
        rules = Rules(torch.randn(n, n, n, generator=generator) * n**-0.5)
        learned = insert_adapters(
            model,
            PLACES[self.style],
            lambda width: KroneckerBottleneck(width, self.bottleneck, self.rank, rules, generator),
        )
        model.before = rules
        return attached(model, [("rules", rules.matrices.value), *learned])

    def _check(self, config: Any) -> None:
        width = int(config.hidden_size)
        check_count("bottleneck", self.bottleneck, width, example=24)
        if width % self.terms:
            raise UserError(f"terms must divide the model's width {width}, got {self.terms}; pass --option terms=4")

    def merge(self, model: AdaptableModel) -> nn.Module:
        raise CannotMerge("an adapter computes something that the stock layers cannot")

    def trainable(self, config: Any, labels: int) -> int:
        self._check(config)
        sizes = dense_sizes(config, PLACES[self.style])
        each = sum((2 * self.rank + 1) * (out + self.bottleneck) for _, out in sizes)
        return self.terms**3 + each + labels * (int(config.hidden_size) + 1)


METHOD = Compacter
