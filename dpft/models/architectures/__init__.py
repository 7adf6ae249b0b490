"""Supported architectures, and the modules inside a stock model of one."""

from dpft.models.architectures.modules import (
    ARCHITECTURES,
    POOLER,
    architecture,
    block_modules,
    block_paths,
    blocks,
    dense_layers,
    longest,
    without_pooler,
)
from dpft.models.architectures.row import DENSE, Architecture, Dense, OneToken, Position, replace
from dpft.models.architectures.stock_layers import adaptable, restored

__all__ = [
    "ARCHITECTURES",
    "DENSE",
    "POOLER",
    "Architecture",
    "Dense",
    "OneToken",
    "Position",
    "adaptable",
    "architecture",
    "block_modules",
    "block_paths",
    "blocks",
    "dense_layers",
    "longest",
    "replace",
    "restored",
    "without_pooler",
]  # fmt: skip
