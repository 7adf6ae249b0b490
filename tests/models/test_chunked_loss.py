"""Cross-entropy in chunks: torch's own on whole logits is the oracle, and whole logits never exist."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dpft.models.chunked_loss import FrozenHead, surprise

ROWS, LONG, WIDE, WORDS = 3, 7, 5, 41
CAPS = (None, 2.0)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden (B, T, D), labels (B, T) of which row 1 has none, weight (V, D), bias (V,)"""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, LONG, WIDE, generator=generator).to(dtype)
    labels = torch.randint(0, WORDS, (ROWS, LONG), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.4] = -100
    labels[1], labels[2, -1] = -100, WORDS - 1
    return hidden, labels, torch.randn(WORDS, WIDE, generator=generator).to(dtype), torch.randn(WORDS).to(dtype)


def oracle(hidden: Tensor, labels: Tensor, head: FrozenHead) -> Tensor:
    logits = hidden @ head.weight.T + (0 if head.bias is None else head.bias)
    if head.cap is not None:
        logits = head.cap * torch.tanh(logits / head.cap)
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, ROWS * LONG, None])
def test_values_and_gradients_are_those_of_whole_logits(chunk: int | None, biased: bool, cap: float | None) -> None:
    # Catches a chunk's gradient that lands at another's positions, and a cap without its derivative.
    hidden, labels, weight, bias = inputs()
    head = FrozenHead(weight, bias if biased else None, cap, chunk)
    factors = torch.linspace(0.5, 2, labels.numel(), dtype=torch.float64).view(labels.shape)
    leaf, other = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    found, wanted = surprise(leaf, labels, head), oracle(other, labels, head)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    (found * factors).sum().backward()
    (wanted * factors).sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-11, atol=1e-13)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, Tensor):
                self.most = max(self.most, one.numel())
        return out


def largest(chunk: int | None) -> int:
    hidden, labels, weight, _ = inputs()
    leaf = hidden.clone().requires_grad_()
    with Largest() as seen:
        surprise(leaf, labels, FrozenHead(weight, chunk=chunk)).sum().backward()
    return seen.most


def test_no_tensor_is_as_large_as_one_chunks_logits_or_all_hidden_states() -> None:
    assert largest(2) <= max(2 * WORDS, WORDS * WIDE, ROWS * LONG * WIDE)
    assert largest(ROWS * LONG) > largest(2)  # the measurement sees logits where they are whole


def test_logits_of_a_chunk_stay_small_for_every_vocabulary() -> None:
    for words in (64, 49_152, 262_144, 2**25):
        positions = FrozenHead(torch.empty(words, 1, device="meta")).positions
        assert positions >= 1
        assert positions * words <= max(2**24, words)


def test_bfloat16_is_summed_in_float32_and_near_the_exact_values() -> None:
    hidden, labels, weight, _ = inputs()
    narrow = FrozenHead(weight.bfloat16())
    leaf, other = hidden.bfloat16().requires_grad_(), hidden.clone().requires_grad_()
    found, wanted = surprise(leaf, labels, narrow), oracle(other, labels, FrozenHead(weight))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=0.05, atol=0.05)
    found.sum().backward()
    wanted.sum().backward()
    assert leaf.grad is not None
    assert other.grad is not None
    assert float((leaf.grad.double() - other.grad).norm()) < 0.05 * float(other.grad.norm())


def test_where_nothing_is_judged_all_is_zero_and_gradients_exist() -> None:
    hidden, labels, weight, _ = inputs()
    leaf = hidden.clone().requires_grad_()
    found = surprise(leaf, torch.full_like(labels, -100), FrozenHead(weight))
    found.sum().backward()
    assert not found.any()
    assert leaf.grad is not None
    assert not leaf.grad.any()


def test_a_logit_beyond_float32s_exponentials_is_no_infinity() -> None:
    hidden, labels, weight, _ = inputs(torch.float32)
    leaf = (hidden * 1e4).requires_grad_()
    found = surprise(leaf, labels, FrozenHead(weight))
    found.sum().backward()
    assert bool(torch.isfinite(found).all())
    assert leaf.grad is not None
    assert bool(torch.isfinite(leaf.grad).all())
