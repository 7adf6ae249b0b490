"""The last block for one query: the stock block's row, to float64, and its gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpft.models.architectures import architecture, blocks
from dpft.models.one_token_block import OneTokenBlock


@pytest.fixture(params=["eager", "sdpa"])
def last(tiny_model: Path, request: pytest.FixtureRequest) -> tuple[nn.Module, Any]:
    """The last block in float64 and without dropout, with its config."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_model, dtype=torch.float64, attn_implementation=request.param).eval()
    return blocks(model)[-1], model.config


def hidden_states(batch: int = 5, length: int = 9) -> tuple[Tensor, Tensor]:
    """hidden (B, T, D), allowed (B, T) with rows of every length from T down."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(batch, length, 32, generator=generator, dtype=torch.float64)
    return hidden, torch.arange(length) < (length - torch.arange(batch)).unsqueeze(1)


def stock_rows(block: nn.Module, hidden: Tensor, allowed: Tensor | None, read: Tensor) -> Tensor:
    bias = None
    if allowed is not None:
        bias = torch.zeros(allowed.shape, dtype=hidden.dtype).masked_fill(~allowed, torch.finfo(hidden.dtype).min)
        bias = bias[:, None, None, :].expand(-1, -1, hidden.shape[1], -1)
    out = block(hidden, bias)
    out = out[0] if isinstance(out, tuple) else out
    return out[torch.arange(len(read)), read].unsqueeze(1)


def one_row(last: tuple[nn.Module, Any], hidden: Tensor, allowed: Tensor | None, read: Tensor) -> Tensor:
    one = OneTokenBlock(last[0], architecture(last[1]).one)
    one.read, one.allowed = read, allowed
    out: Tensor = one(hidden)
    return out


READS = {"cls": [0] * 5, "mask": [7, 6, 5, 4, 3], "mixed": [0, 7, 1, 5, 4]}


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_it_equals_the_stock_blocks_row_and_gradients(
    last: tuple[nn.Module, Any], read: list[int], padded: bool
) -> None:
    """The gradient of every weight, and of every hidden state, is compared: none may take a different path."""
    hidden, allowed = hidden_states()
    found_gradients = []
    for function in (lambda *a: stock_rows(last[0], *a), lambda *a: one_row(last, *a)):
        leaf = hidden.clone().requires_grad_()
        out = function(leaf, allowed if padded else None, torch.tensor(read))
        weights = list(last[0].parameters())
        (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)).sum().backward()
        found_gradients.append([out.detach(), leaf.grad, *[w.grad for w in weights]])
        last[0].zero_grad()
    for stock, ours in zip(*found_gradients, strict=True):
        assert stock is not None
        assert ours is not None
        torch.testing.assert_close(ours, stock, rtol=0, atol=1e-10)
    assert found_gradients[0][0].std() > 0.1


@pytest.mark.parametrize("batch", [1, 0])
def test_a_batch_of_one_or_none_keeps_its_shape(last: tuple[nn.Module, Any], batch: int) -> None:
    hidden, allowed = hidden_states(5)
    read = torch.tensor(READS["mask"])
    whole = one_row(last, hidden, allowed, read)
    part = one_row(last, hidden[:batch], allowed[:batch], read[:batch])
    assert part.shape == (batch, 1, 32)
    torch.testing.assert_close(part, whole[:batch], rtol=0, atol=1e-12)


def test_neither_batch_mates_nor_padding_reach_a_row(last: tuple[nn.Module, Any]) -> None:
    hidden, allowed = hidden_states()
    read = torch.tensor(READS["mask"])
    before = one_row(last, hidden, allowed, read)
    changed = hidden.clone()
    changed[0] += 5.0
    changed[~allowed] = 1e3
    after = one_row(last, changed, allowed, read)
    assert torch.equal(after[1:], before[1:])
    assert not torch.allclose(after[0], before[0])


def test_it_adds_no_parameters_of_its_own(last: tuple[nn.Module, Any]) -> None:
    one = OneTokenBlock(last[0], architecture(last[1]).one)
    assert [id(p) for p in one.parameters()] == [id(p) for p in last[0].parameters()]
