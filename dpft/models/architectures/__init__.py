"""Supported architectures, and the modules inside a stock model of one."""

from dpft.models.architectures.modules import (
    ARCHITECTURES,
    POOLER,
    architecture,
    as_linear,
    block_modules,
    block_paths,
    blocks,
    dense_layers,
    longest,
    restored,
    without_pooler,
)
from dpft.models.architectures.row import DENSE, Architecture, Dense, OneToken, Position, replace

__all__ = [
    "ARCHITECTURES", "DENSE", "POOLER", "Architecture", "Dense", "OneToken", "Position", "architecture", "as_linear",
    "block_modules", "block_paths", "blocks", "dense_layers", "longest", "replace", "restored", "without_pooler",
]  # fmt: skip
