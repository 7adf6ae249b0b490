"""Stock layers of a form that methods cannot take, in an equal one that they can; and back again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpft.models.architectures.row import replace


class TokenShape:
    """(B, T) of the last input of OPT's blocks."""

    def __init__(self) -> None:
        self.rows: tuple[int, ...] = ()


class Noted(nn.Module):
    """A layer that notes (B, T) of its input: (B, T, D) -> same."""

    def __init__(self, stock: nn.Module, shape: TokenShape) -> None:
        super().__init__()
        self.stock, self._shape = stock, shape

    def forward(self, hidden: Tensor) -> Tensor:
        self._shape.rows = tuple(hidden.shape[:-1])
        out: Tensor = self.stock(hidden)
        return out


class Unflattened(nn.Module):
    """A layer that OPT calls with all tokens of all rows in one dimension: inside it they are (B, T, D) again.

    (B T, in) or (B, T, in) -> (B T, out) or (B, T, out).
    """

    def __init__(self, stock: nn.Module, shape: TokenShape) -> None:
        super().__init__()
        self.stock, self._shape = stock, shape

    def forward(self, hidden: Tensor) -> Tensor:
        if hidden.dim() > 2:
            whole: Tensor = self.stock(hidden)
            return whole
        out: Tensor = self.stock(hidden.view(*self._shape.rows, -1))
        return out.flatten(0, 1)


_FLATTENED = ("fc1", "fc2", "final_layer_norm")


def adaptable(root: nn.Module) -> nn.Module:
    """`root`, changed in place, where every dense layer is an nn.Linear on (B, T, D); the outputs stay the same.

    GPT-2's Conv1D is a dense layer with its weight transposed. OPT's blocks flatten their tokens on the way.
    """
    from transformers.models.opt.modeling_opt import OPTDecoderLayer
    from transformers.pytorch_utils import Conv1D

    shape = TokenShape()
    for path, layer in list(root.named_modules()):
        if isinstance(layer, Conv1D):
            width, out = layer.weight.shape
            with torch.device(layer.weight.device):
                linear = nn.Linear(width, out)
            linear.weight, linear.bias = _transposed(layer.weight), layer.bias
            replace(root, path, linear)
        if isinstance(layer, OPTDecoderLayer):
            replace(layer, "self_attn_layer_norm", Noted(layer.self_attn_layer_norm, shape))
            for name in _FLATTENED:
                replace(layer, name, Unflattened(getattr(layer, name), shape))
    return root


def restored(root: nn.Module) -> nn.Module:
    """`root`, changed in place, with the stock layers again wherever no module of a method is left in their place."""
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention
    from transformers.pytorch_utils import Conv1D

    for path, layer in list(root.named_modules()):
        if isinstance(layer, Unflattened) and type(layer.stock) in (nn.Linear, nn.LayerNorm):
            replace(root, path, layer.stock)
        if isinstance(layer, GPT2MLP | GPT2Attention):
            for name, inner in list(layer.named_children()):
                if type(inner) is nn.Linear:
                    with torch.device(inner.weight.device):
                        conv: Any = Conv1D(inner.out_features, inner.in_features)
                    conv.weight, conv.bias = _transposed(inner.weight), inner.bias
                    replace(layer, name, conv)
    if not any(isinstance(layer, Unflattened) for layer in root.modules()):
        for path, layer in list(root.named_modules()):
            if isinstance(layer, Noted):
                replace(root, path, layer.stock)
    return root


def _transposed(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().T.contiguous(), requires_grad=weight.requires_grad)
