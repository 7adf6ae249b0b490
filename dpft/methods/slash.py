"""SLaSh: one shared trainable vector shifts every block (Gupta et al. 2023, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_options
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from dpft.errors import UserError
from dpft.models.adapted import AdaptedModel, Traits, attached, check_choice, check_count, check_size, fold, with_bias
from dpft.models.architectures import Position, dense_layers, replace
from dpft.models.architectures.sizes import dense_sizes
from dpft.models.base import AdaptableModel
from dpft.models.random_projections import (
    IdentityProjection,
    Projection,
    RandomStream,
    RegeneratedProjection,
    StoredProjection,
)
from dpft.models.shared_vector import PerExample

Init = Literal["normal", "uniform", "zeros", "identity"]


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

    def folded(self) -> nn.Linear:
        assert self.shift is not None
        return with_bias(self.dense, self.shift[0])


class JointShift(nn.Module):
    """W_l z for all blocks at once, passed to each block's ShiftedDense: (B, d) -> L times (B, d'_l)."""

    def __init__(self, z: Tensor, projection: Projection, sites: list[ShiftedDense]) -> None:
        super().__init__()
        self.z = PerExample(z)
        self.projection = projection
        self._sites = tuple(sites)  # a tuple: they are registered in the backbone, and only there

    def forward(self, rows: Tensor) -> None:
        shifts = self.projection(self.z(rows))
        widths = [site.dense.out_features for site in self._sites]
        for site, shift in zip(self._sites, shifts.split(widths, dim=1), strict=True):
            site.shift = shift


@dataclass(frozen=True)
class Slash:
    """Shared layer shift: block l's output gains W_l z (Gupta et al. 2023, section 2).

    dim: length d of z, at most the sum of the shifts' lengths d'_l. At that length W is the identity: one free
    bias per block. init: distribution of z and W_l, each of variance 1/d (appendix B.2); "zeros" starts z at zero
    with normal W_l; "identity" shifts every block by z itself (d = d'_l). scale: factor on z's initial value.
    position: which dense output is shifted (appendix B.1). regenerate: compute W_l from its seed block by block,
    forward and backward, instead of storing it (section 3.3). Trainable parameters: d + C(d'_L + 1).
    """

    dim: int = 1024
    init: Init = "zeros"
    scale: float = 1.0
    position: Position = "output"
    regenerate: bool = False
    traits: ClassVar[Traits] = Traits(parameter_sharing=True, efficient_inference=True, multi_layer=True)
    non_private_rate: ClassVar[float] = 0.01

    def __post_init__(self) -> None:
        check_count("dim", self.dim, example=1024)
        check_size("scale", self.scale, "1")
        check_choice("init", self.init, get_args(Init))
        check_choice("position", self.position, get_args(Position))

    def attach(self, model: AdaptableModel, seed: int) -> AdaptedModel:
        sites = []
        for block, path in dense_layers(model.backbone, (self.position,)):
            dense = block.get_submodule(path)
            assert isinstance(dense, nn.Linear)
            sites.append(ShiftedDense(dense))
        widths = [site.dense.out_features for site in sites]
        z, projection = start(self, seed, widths, precision(model))
        for site, (block, path) in zip(sites, dense_layers(model.backbone, (self.position,)), strict=True):
            replace(block, path, site)
        shift = JointShift(z, projection, sites)
        model.before = shift
        return attached(model, [("z", shift.z.value)])

    def merge(self, model: AdaptableModel) -> nn.Module:
        """A copy of the stock backbone with W_l z folded into the dense biases: the same outputs."""
        return fold(model, self.position)

    def fitted(self, config: Any) -> Slash:
        """The same method with z cut to the largest length this model allows."""
        return replace_options(self, dim=fitting(self, [out for _, out in dense_sizes(config, (self.position,))]))

    def trainable(self, config: Any, labels: int) -> int:
        check_dim(self, [out for _, out in dense_sizes(config, (self.position,))])
        return self.dim + labels * (int(config.hidden_size) + 1)


def precision(model: AdaptableModel) -> torch.dtype:
    """The dtype of the backbone."""
    parameter: Tensor = next(model.backbone.parameters())
    return parameter.dtype


class SharedVector(Protocol):
    """The options of a method that projects one shared vector z."""

    @property
    def dim(self) -> int: ...
    @property
    def init(self) -> Init: ...
    @property
    def scale(self) -> float: ...
    @property
    def regenerate(self) -> bool: ...


def fitting(options: SharedVector, widths: Sequence[int]) -> int:
    """The length of z, nearest to the option `dim`, that a model with these shifts takes."""
    return widths[0] if options.init == "identity" else min(options.dim, sum(widths))


def check_dim(options: SharedVector, widths: Sequence[int]) -> None:
    """Raise UserError for a z longer than all shifts together, or of a wrong length for the identity."""
    most, dim = sum(widths), options.dim
    if dim > most:
        raise UserError(
            f"dim must be at most {most}, the sum of this model's shifts, got {dim}; pass --option dim={most}"
        )
    if options.init == "identity" and dim != most and any(dim != width for width in widths):
        fitting = str(most) if len(set(widths)) > 1 else f"{widths[0]} or {most}"
        raise UserError(f"init identity needs dim {fitting} on this model, got {dim}; pass --option dim={most}")


def start(
    options: SharedVector, seed: int, widths: Sequence[int], precision: torch.dtype, copies: int = 0
) -> tuple[Tensor, Projection]:
    """z, (d,) or (copies, d), and its projection to all `widths`, from the public seed.

    `precision`: the backbone's. Raises UserError as `check_dim` does.
    """
    dim, init = options.dim, options.init
    check_dim(options, widths)
    draw = RandomStream(dim, seed, "uniform" if init == "uniform" else "normal")
    z = draw(0, (copies, dim) if copies else (dim,)) * (0.0 if init == "zeros" else options.scale)
    if init == "identity" or (dim == sum(widths) and not copies):
        return z, IdentityProjection(dim, widths)
    return z, RegeneratedProjection(draw, widths) if options.regenerate else StoredProjection(draw, widths, precision)


METHOD = Slash
