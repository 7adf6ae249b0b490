"""Normalised clipping: against an oracle, adversarial pairs and injected bugs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dpft.privacy.clipping import GAMMA, clipped_sum, clipper, normal_factors
from dpft.privacy.step import PrivateStep
from tests.privacy.test_step import CLIP, EXPECTED, Book, Example, Silent, example, plan, rows

WAYS = ["hooks", "ghost", "single"]


class Rows(Tensor):
    """A micro-batch that can be taken apart."""

    def rows(self, which: Any) -> Tensor:
        return self[which]


def one_at_a_time(adapted: Example, batch: Tensor, factor: Callable[[float], float]) -> Any:
    """Gradient, length, factor, add: in plain float64."""
    total = [torch.zeros_like(p, dtype=torch.float64) for p in adapted.private]
    for row in batch:
        loss = adapted.losses(adapted.model(row[None]), row[None]).sum()
        found = [g.double() for g in torch.autograd.grad(loss, adapted.private)]
        by = factor(math.sqrt(sum(float((g**2).sum()) for g in found)))
        for whole, g in zip(total, found, strict=True):
            whole += g * by
    return total


def length(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


@pytest.mark.parametrize("way", WAYS)
def test_normalised_gradients_add_up_to_the_oracle_whatever_the_microbatches(way: str) -> None:
    adapted, batch = replace(example(), gradients=way), rows(23)
    wanted = one_at_a_time(example(), batch, lambda norm: CLIP / (norm + GAMMA))
    for micro in (1, 7, 23):
        clip = clipper(adapted, CLIP, "normalise")
        parts = [clip(part.as_subclass(Rows)) for part in batch.split(micro)]
        clip.close()
        for found, expected in zip(map(sum, zip(*parts, strict=True)), wanted, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-6, 1e-2, 0.7, 3.0, 1e6, 1e30])
def test_a_normalised_gradient_is_at_most_as_long_as_the_clip_in_float32(size: float) -> None:
    gradients = [torch.full((1, 3), size), torch.full((1, 5), -size)]
    added = length(clipped_sum(gradients, CLIP, normal_factors))
    assert added <= CLIP * (1 + 1e-6)
    norm = size * math.sqrt(8)
    assert added == pytest.approx(CLIP * norm / (norm + GAMMA), rel=1e-5)


def worst(factors: Callable[[Tensor, float], Tensor]) -> float:
    """The longest that one row's part gets over many lengths, in clips."""
    lengths = torch.logspace(-8, 8, 200)
    return max(length(clipped_sum([torch.full((1, 4), float(n) / 2)], CLIP, factors)) for n in lengths) / CLIP


def test_a_normalisation_that_forgets_or_mistakes_its_constant_is_caught() -> None:
    # Injected bugs: gamma subtracted, the root of the norm, the largest coordinate for the norm.
    assert worst(normal_factors) <= 1 + 1e-6
    assert worst(lambda norms, clip: clip / (norms - GAMMA).abs()) > 1.01
    assert worst(lambda norms, clip: clip / (norms.sqrt() + GAMMA)) > 1.01
    assert worst(lambda norms, clip: clip / (norms / 2 + GAMMA)) > 1.01


def test_a_row_that_is_not_finite_adds_nothing_to_a_normalised_sum_and_no_rows_add_nothing() -> None:
    clean = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    for bad in (math.nan, math.inf):
        dirty = torch.cat([clean, torch.tensor([[bad, 1.0]])])
        found = clipped_sum([dirty], CLIP, normal_factors)[0]
        torch.testing.assert_close(found, clipped_sum([clean], CLIP, normal_factors)[0])
    assert not clipped_sum([torch.zeros(0, 2)], CLIP, normal_factors)[0].any()


def test_a_step_clips_as_its_plan_says() -> None:
    # Catches a plan whose clipping nobody reads.
    batch = rows(9)
    for way, factor in (("cut", lambda n: min(1.0, CLIP / n)), ("normalise", lambda n: CLIP / (n + GAMMA))):
        adapted = example()
        before = [p.detach().clone() for p in adapted.private]
        optimizer = torch.optim.SGD(adapted.private, lr=1.0)
        step = PrivateStep(adapted, replace(plan(), clipping=way), optimizer, Book(), Silent(), "run")
        wanted = one_at_a_time(example(), batch, factor)
        step(0, [batch])
        for b, p, expected in zip(before, adapted.private, wanted, strict=True):
            torch.testing.assert_close((b - p.detach()) * EXPECTED, expected, rtol=1e-9, atol=1e-12)
