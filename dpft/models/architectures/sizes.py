"""Sizes of a model's layers from its config alone: the stock model on the meta device."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from dpft.models.architectures.modules import dense_layers, without_pooler
from dpft.models.architectures.row import Dense
from dpft.models.architectures.stock_layers import adaptable


def skeleton(config: Any, device: str = "meta") -> nn.Module:
    """The stock model of a Hugging Face config, without pooler and in the form that methods take."""
    from transformers import AutoModel

    with torch.device(device):
        model: nn.Module = AutoModel.from_config(copy.deepcopy(config))
    return without_pooler(adaptable(model))


def dense_sizes(config: Any, names: tuple[Dense, ...]) -> list[tuple[int, int]]:
    """(in, out) of every block's named dense layers."""
    found = []
    for block, path in dense_layers(skeleton(config), names):
        dense = block.get_submodule(path)
        assert isinstance(dense, nn.Linear)
        found.append((dense.in_features, dense.out_features))
    return found
