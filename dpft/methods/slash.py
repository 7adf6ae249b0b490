"""SLaSh: one shared trainable vector shifts every block (Gupta et al. 2023, section 2)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from dpft.methods._method import Adapted, freeze
from dpft.models.blocks import Position, architecture, blocks, replace
from dpft.models.heads import Classifier
from dpft.models.one_token import OneTokenBlock
from dpft.models.per_example import PerExample, Projection
from dpft.spec import UserError

Init = Literal["normal", "uniform", "zeros"]


class ShiftedDense(nn.Module):
    """A dense layer whose output gains `shift`: (B, T, D) -> (B, T, D'). shift: (B or 1, D')."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.dense = dense
        self.shift: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        assert self.shift is not None
        out: Tensor = self.dense(hidden)
        return out + self.shift.to(out.dtype).unsqueeze(1)


class JointShift(nn.Module):
    """W_l z for all blocks at once, handed to each block's ShiftedDense: (B, d) -> L times (B, d'_l)."""

    def __init__(self, z: Tensor, weight: Tensor, sites: list[ShiftedDense]) -> None:
        super().__init__()
        self.z = PerExample(z)
        self.projection = Projection(weight)
        self._sites = tuple(sites)  # a tuple: they are registered in the backbone, and only there

    def forward(self, rows: Tensor) -> None:
        shifts = self.projection(self.z(rows))
        widths = [site.dense.out_features for site in self._sites]
        for site, shift in zip(self._sites, shifts.split(widths, dim=1), strict=True):
            site.shift = shift


@dataclass(frozen=True)
class Slash:
    """Shared layer shift: block l's output gains W_l z (Gupta et al. 2023, section 2).

    dim: length d of z. init: distribution of z and W_l, each of variance 1/d (appendix B.2); "zeros" starts
    z at zero with normal W_l. scale: factor on z's initial value. position: which dense output is shifted
    (appendix B.1). Trains d + C(d'_L + 1) numbers.
    """

    dim: int = 1024
    init: Init = "zeros"
    scale: float = 1.0
    position: Position = "output"

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise UserError(f"dim must be a whole number above 0, got {self.dim}; pass --option dim=1024")
        if not math.isfinite(self.scale):
            raise UserError(f"scale must be a finite number, got {self.scale}; pass --option scale=1")
        for name, choices in (("init", get_args(Init)), ("position", get_args(Position))):
            value = getattr(self, name)
            if value not in choices:
                raise UserError(
                    f"{name} must be one of {', '.join(choices)}, got {value!r}; pass --option {name}={choices[0]}"
                )

    def attach(self, model: Classifier, seed: int) -> Adapted:
        freeze(model)
        path = architecture(model.backbone.config).dense(self.position)
        sites = []
        for block in blocks(model.backbone):
            block = block.block if isinstance(block, OneTokenBlock) else block
            dense = block.get_submodule(path)
            assert isinstance(dense, nn.Linear)
            sites.append(ShiftedDense(dense))
            replace(block, path, sites[-1])
        z, weight = self._draw([site.dense.out_features for site in sites], seed)
        shift = JointShift(z, weight, sites)
        model.before = shift
        named = {"z": shift.z.value, **dict(model.head.named_parameters(prefix="head"))}
        return Adapted(model, named)

    def merge(self, model: Classifier) -> nn.Module:
        """A copy of the stock backbone with W_l z folded into the dense biases: the same outputs."""
        merged = copy.deepcopy(model)
        assert isinstance(merged.before, JointShift)
        with torch.no_grad():
            merged.before(torch.empty(1, 0))
        layers = blocks(merged.backbone)
        path = architecture(merged.backbone.config).dense(self.position)
        for index, block in enumerate(layers):
            block = block.block if isinstance(block, OneTokenBlock) else block
            site = block.get_submodule(path)
            assert isinstance(site, ShiftedDense)
            assert site.shift is not None
            with torch.no_grad():
                site.dense.bias.add_(site.shift[0].to(site.dense.bias.dtype))
            replace(block, path, site.dense)
            layers[index] = block
        backbone: nn.Module = merged.backbone
        return backbone

    def trainable(self, config: Any, labels: int) -> int:
        return self.dim + labels * (int(config.hidden_size) + 1)

    def _draw(self, widths: list[int], seed: int) -> tuple[Tensor, Tensor]:
        """z (d,) and all W_l stacked (sum of d'_l, d), float32, from the public seed.

        NumPy promises that a RandomState's stream never changes, so a seed means the same W_l for ever.
        """
        spread = self.dim**-0.5

        def draw(block: int, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
            state = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, block])))
            if self.init == "uniform":
                return state.uniform(-(3**0.5) * spread, 3**0.5 * spread, shape)
            return np.asarray(state.standard_normal(shape) * spread)

        z = torch.from_numpy(draw(0, (self.dim,))).float() * (0.0 if self.init == "zeros" else self.scale)
        rows = [torch.from_numpy(draw(i, (w, self.dim))).float() for i, w in enumerate(widths, start=1)]
        return z, torch.cat(rows)


METHOD = Slash
