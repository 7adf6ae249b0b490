"""Fixed random projections W_l for all blocks: stored, regenerated when needed, or the identity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

Distribution = Literal["normal", "uniform"]
_PIECE = 2**14  # draws of 64 bits; changing it changes the numbers of a seed


@dataclass(frozen=True)
class RandomStream:
    """Public random numbers of mean 0 and variance 1 / `dim`; each stream is identified by (seed, number).

    A stream is the raw output of Philox 4x64 (Salmon et al. 2011), which NumPy promises never to change, mapped by
    the Box-Muller transform or linearly, in float32. So a seed gives the same numbers in all versions.
    """

    dim: int
    seed: int
    distribution: Distribution

    def __call__(self, stream: int, shape: Sequence[int]) -> Tensor:
        """Stream number `stream` as a float32 tensor of `shape`."""
        count = math.prod(shape)
        bits = np.random.Philox(np.random.SeedSequence([self.seed, stream]))
        drawn = torch.empty(count)
        for part in drawn.split(2 * _PIECE):
            part.copy_(self._piece(bits.random_raw(_PIECE))[: len(part)])
        return drawn.reshape(tuple(shape))

    def _piece(self, bits: np.ndarray[Any, Any]) -> Tensor:
        """Two numbers from the halves of each 64 bits. Pieces are small to fit a processor's cache."""
        halves = torch.from_numpy(bits.astype("<u8").view("<u4").astype(np.float32)).mul_(2.0**-32).add_(2.0**-33)
        if self.distribution == "uniform":
            return halves.sub_(0.5).mul_((12 / self.dim) ** 0.5)
        radius, angle = halves.chunk(2)
        radius, angle = radius.log_().mul_(-2.0 / self.dim).clamp_(min=0).sqrt_(), angle.mul_(2 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()])


class _Project(torch.autograd.Function):
    """copies (B, ..., d) -> (B, ..., sum of d'_l). All rows are equal: one is projected, each gets its gradient."""

    @staticmethod
    def forward(ctx: Any, copies: Tensor, projection: Projection) -> Tensor:
        ctx.projection = projection
        return projection.apply_to(copies[:1]).expand(copies.shape[0], *copies.shape[1:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.projection.transposed(gradients[0]), None


class Projection(nn.Module):
    """W_l z of all blocks side by side, for equal copies of z: (B, ..., d) -> (B, ..., sum of d'_l).

    Only for the output of `PerExample`: row 0 stands for all rows. Nothing is saved; the seed determines it.
    """

    def forward(self, copies: Tensor) -> Tensor:
        projected: Tensor = _Project.apply(copies, self)  # type: ignore[no-untyped-call]
        return projected

    def apply_to(self, copies: Tensor) -> Tensor:
        raise NotImplementedError

    def transposed(self, gradients: Tensor) -> Tensor:
        raise NotImplementedError


class StoredProjection(Projection):
    """Projections stored in memory: sum of d'_l times d numbers.

    The gradient of z is projected in `narrow`, the precision of the backbone that it comes from: in bfloat16 that
    takes a quarter of the time, which was most of what a private step cost beside one that is not. It is clipped and
    summed in float32 all the same.
    """

    weight: Tensor
    narrow: Tensor | None

    def __init__(self, draw: RandomStream, widths: Sequence[int], narrow: torch.dtype = torch.float32) -> None:
        super().__init__()
        weight = torch.empty(sum(widths), draw.dim)
        for block, part in enumerate(weight.split(list(widths)), start=1):
            part.copy_(draw(block, part.shape))
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("narrow", weight.to(narrow) if narrow == torch.bfloat16 else None, persistent=False)

    def apply_to(self, copies: Tensor) -> Tensor:
        return copies @ self.weight.T

    def transposed(self, gradients: Tensor) -> Tensor:
        if self.narrow is None:
            return gradients @ self.weight
        return (gradients.to(self.narrow.dtype) @ self.narrow).to(gradients.dtype)


class RegeneratedProjection(Projection):
    """The same matrices, regenerated from the seed block by block, forward and backward (paper, section 3.3).

    Memory is one block's matrix. The projection is computed once for each value of z.
    """

    def __init__(self, draw: RandomStream, widths: Sequence[int]) -> None:
        super().__init__()
        self._draw, self._widths = draw, list(widths)
        self._of: tuple[Tensor, Tensor] | None = None

    def apply_to(self, copies: Tensor) -> Tensor:
        if self._of is None or not torch.equal(self._of[0], copies):
            with torch.inference_mode(False):  # autograd refuses a tensor that was made in inference mode
                of = copies.detach().clone()
                parts = [of @ self._weight(block, of).T for block in range(len(self._widths))]
                self._of = of, torch.cat(parts, dim=-1)
        return self._of[1]

    def transposed(self, gradients: Tensor) -> Tensor:
        found = gradients.new_zeros(*gradients.shape[:-1], self._draw.dim)
        for block, part in enumerate(gradients.split(self._widths, dim=-1)):
            found += part @ self._weight(block, gradients)
        return found

    def _weight(self, block: int, like: Tensor) -> Tensor:
        return self._draw(block + 1, (self._widths[block], self._draw.dim)).to(like)


class IdentityProjection(Projection):
    """The identity: every block's shift is z, or, where z is as long as all shifts together, its own part of z."""

    def __init__(self, dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        self._times = sum(widths) // dim

    def apply_to(self, copies: Tensor) -> Tensor:
        return copies if self._times == 1 else torch.cat([copies] * self._times, dim=-1)

    def transposed(self, gradients: Tensor) -> Tensor:
        parts: Tensor = gradients.unflatten(-1, (self._times, -1))
        return parts.sum(-2)
