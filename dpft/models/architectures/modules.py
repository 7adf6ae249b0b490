"""The modules of a stock model, found by its architecture's row."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from dpft.errors import UserError
from dpft.models.architectures.decoders import DECODERS
from dpft.models.architectures.encoders import ENCODERS
from dpft.models.architectures.row import Architecture, Dense

POOLER = ("pooler", "pooler_activation")
ARCHITECTURES: dict[str, Architecture] = {**ENCODERS, **DECODERS}


def architecture(config: Any) -> Architecture:
    """The architecture of a Hugging Face config, by `model_type`. Raises UserError for an unsupported one."""
    kind = getattr(config, "model_type", None)
    if kind not in ARCHITECTURES:
        raise UserError(
            f"the model must be one of {', '.join(ARCHITECTURES)}, got {kind!r}; pass --model with such a checkpoint"
        )
    return ARCHITECTURES[kind]


def block_modules(backbone: nn.Module) -> list[nn.Module]:
    """The modules called as blocks, first to last; a block that runs several times appears once."""
    return [backbone.get_submodule(path) for path in block_paths(backbone)]


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """The stock transformer blocks, first to last, without wrappers."""
    return [cast(nn.Module, getattr(block, "block", block)) for block in block_modules(backbone)]


def block_paths(backbone: nn.Module) -> list[str]:
    """The paths of the blocks inside the model."""
    paths = [""]
    for part in architecture(backbone.config).blocks.split("."):
        if part == "*":
            paths = [f"{path}.{n}" for path in paths for n, _ in backbone.get_submodule(path).named_children()]
        else:
            paths = [f"{path}.{part}" if path else part for path in paths]
    return paths


def dense_layers(backbone: nn.Module, names: tuple[Dense, ...]) -> list[tuple[nn.Module, str]]:
    """(block, path inside it) of the named dense layers, each once: some architectures fuse query, key and value."""
    row = architecture(backbone.config)
    paths = [path for path in dict.fromkeys(row.dense(name) for name in names) if path]
    if not paths:
        raise UserError(f"this architecture has no dense layer {', '.join(names)} of its own; pass other targets")
    return [(block, path) for block in blocks(backbone) for path in paths]


def longest(backbone: nn.Module) -> int:
    """The maximum number of tokens: RoBERTa counts positions from padding_idx + 1 (fairseq), others from 0.

    Models without a position table (rotary positions) have the number that they were trained for.
    """
    config: Any = backbone.config
    parent, _, name = architecture(config).positions.rpartition(".")
    table = getattr(backbone.get_submodule(parent), name, None) if name else None
    padding = getattr(table, "padding_idx", None)
    return int(config.max_position_embeddings) - (0 if padding is None else int(padding) + 1)


def without_pooler(backbone: nn.Module) -> nn.Module:
    """Remove the pooler: the head reads the encoder's own output."""
    for name in POOLER:
        if getattr(backbone, name, None) is not None:
            setattr(backbone, name, None)
    return backbone
