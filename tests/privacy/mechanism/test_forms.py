"""Normalised clipping, and clip and noise in a scaled space: against oracles, adversarial pairs and injected bugs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpft.privacy.mechanism import clipping
from dpft.privacy.mechanism.clipping import GAMMA, apply_scales, clipped_sum, clipper, normalise_factors
from dpft.privacy.mechanism.step import PrivateStep
from dpft.privacy.randomness import Secret
from tests.privacy.mechanism.test_step import CLIP, EXPECTED, Book, Example, Silent, example, plan, rows

WAYS = ["hooks", "ghost", "single"]


class Microbatch(Tensor):
    """A micro-batch that can be taken apart."""

    def rows(self, which: Any) -> Tensor:
        return self[which]


class Scaled(torch.optim.SGD):
    """SGD that asks for given scales, and keeps what it is told."""

    def __init__(self, parameters: Sequence[nn.Parameter], given: Sequence[Tensor]) -> None:
        super().__init__(parameters, lr=1.0)
        self.given, self.told = given, list[Tensor]()

    def scales(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        return list(self.given)

    def step(self, closure: Any = None) -> None:
        self.told = [p.grad.clone() for group in self.param_groups for p in group["params"]]


def some_scales(adapted: Example, dtype: torch.dtype) -> list[Tensor]:
    """From 1e-3 to 1e3, unlike in neighbouring coordinates."""
    generator = torch.Generator().manual_seed(3)
    return [10 ** (torch.rand(p.shape, generator=generator, dtype=dtype) * 6 - 3) for p in adapted.private]


def taken(
    adapted: Example, batch: list[Tensor], scales: list[Tensor], secret: Secret | None = None,
    kind: Callable[..., PrivateStep[Any]] = PrivateStep,
) -> list[Tensor]:  # fmt: skip
    """What a step released, times the declared batch."""
    optimizer = Scaled(adapted.private, scales)
    step = kind(adapted, plan(), optimizer, Book(), secret or Silent(), "run")
    step(0, batch)
    step.close()
    return [told * EXPECTED for told in optimizer.told]


def one_at_a_time(adapted: Example, batch: Tensor, factor: Callable[[float], float], scales: Any = None) -> Any:
    """Gradient, scale, length, factor, add, scale back: in plain float64."""
    scales = scales or [torch.ones_like(p) for p in adapted.private]
    total = [torch.zeros_like(p, dtype=torch.float64) for p in adapted.private]
    for row in batch:
        loss = adapted.losses(adapted.model(row[None]), row[None]).sum()
        found = [g.double() * s for g, s in zip(torch.autograd.grad(loss, adapted.private), scales, strict=True)]
        by = factor(math.sqrt(sum(float((g**2).sum()) for g in found)))
        for whole, g, s in zip(total, found, scales, strict=True):
            whole += g * by / s
    return total


def length(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


@pytest.mark.parametrize("way", WAYS)
def test_normalised_gradients_add_up_to_the_oracle_whatever_the_microbatches(way: str) -> None:
    adapted, batch = replace(example(), gradients=way), rows(23)
    wanted = one_at_a_time(example(), batch, lambda norm: CLIP / (norm + GAMMA))
    for micro in (1, 7, 23):
        clip = clipper(adapted, CLIP, "normalise")
        parts = [clip(part.as_subclass(Microbatch)) for part in batch.split(micro)]
        clip.close()
        for found, expected in zip(map(sum, zip(*parts, strict=True)), wanted, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-6, 1e-2, 0.7, 3.0, 1e6, 1e30])
def test_a_normalised_gradient_is_at_most_as_long_as_the_clip_in_float32(size: float) -> None:
    gradients = [torch.full((1, 3), size), torch.full((1, 5), -size)]
    added = length(clipped_sum(gradients, CLIP, normalise_factors))
    assert added <= CLIP * (1 + 1e-6)
    norm = size * math.sqrt(8)
    assert added == pytest.approx(CLIP * norm / (norm + GAMMA), rel=1e-5)


def worst(factors: Callable[[Tensor, float], Tensor]) -> float:
    """The longest that one row's part gets over many lengths, in clips."""
    lengths = torch.logspace(-8, 8, 200)
    return max(length(clipped_sum([torch.full((1, 4), float(n) / 2)], CLIP, factors)) for n in lengths) / CLIP


def test_a_normalisation_that_forgets_or_mistakes_its_constant_is_caught() -> None:
    # Injected bugs: gamma subtracted, the root of the norm, the largest coordinate for the norm.
    assert worst(normalise_factors) <= 1 + 1e-6
    assert worst(lambda norms, clip: clip / (norms - GAMMA).abs()) > 1.01
    assert worst(lambda norms, clip: clip / (norms.sqrt() + GAMMA)) > 1.01
    assert worst(lambda norms, clip: clip / (norms / 2 + GAMMA)) > 1.01


def test_a_row_that_is_not_finite_adds_nothing_to_a_normalised_sum_and_no_rows_add_nothing() -> None:
    clean = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    for bad in (math.nan, math.inf):
        dirty = torch.cat([clean, torch.tensor([[bad, 1.0]])])
        found = clipped_sum([dirty], CLIP, normalise_factors)[0]
        torch.testing.assert_close(found, clipped_sum([clean], CLIP, normalise_factors)[0])
    assert not clipped_sum([torch.zeros(0, 2)], CLIP, normalise_factors)[0].any()


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


@pytest.mark.parametrize("way", ["hooks", "single"])
def test_a_scaled_sum_is_that_of_gradients_scaled_and_clipped_one_at_a_time(way: str) -> None:
    batch, scales = rows(23), some_scales(example(), torch.float64)
    wanted = one_at_a_time(example(), batch, lambda norm: min(1.0, CLIP / norm), scales)
    for micro in (1, 7, 23):
        parts = [part.as_subclass(Microbatch) for part in batch.split(micro)]
        found = taken(replace(example(), gradients=way), parts, scales)
        for f, w in zip(found, wanted, strict=True):
            torch.testing.assert_close(f, w, rtol=1e-9, atol=1e-12)


def scaled_moves(kind: Callable[..., PrivateStep[Any]] = PrivateStep) -> list[float]:
    """How far one more row moves the sum, in clips of the scaled space: aligned, opposed, repeated, tiny, huge."""
    batch = rows(8, torch.float32)
    scales = some_scales(example(torch.float32), torch.float32)
    moved = []
    for extra in (batch[-1:], -batch[-1:], batch[:1], batch[-1:] * 1e-6, batch[-1:] * 1e6):
        both = [taken(example(torch.float32), parts, scales, kind=kind) for parts in ([extra], [])]
        scaled = [(a - b).double() * s for a, b, s in zip(*both, scales, strict=True)]
        moved.append(length(scaled) / CLIP)
    return moved


class ClippedFirst(PrivateStep[Any]):
    """Injected bug: gradients are clipped as they are, and scaled afterwards."""

    def _sum(self, microbatches: Any) -> list[Tensor]:
        scales, self.scales = self.scales, None
        plain = super()._sum(microbatches)
        self.scales = scales
        return list(apply_scales(plain, scales))


class NoisedLast(PrivateStep[Any]):
    """Injected bug: the noise is added after the sum was scaled back, as if it had been clipped there."""

    def _noise(self, like: Tensor) -> Tensor:
        assert self.scales is not None
        scale = next(s for s in self.scales if s.shape == like.shape)
        return super()._noise(like) * scale


def test_one_row_moves_a_scaled_float32_sum_by_at_most_the_clip() -> None:
    assert 1 - 1e-6 <= max(scaled_moves()) <= 1 + 1e-6


def test_clipping_before_scaling_is_caught() -> None:
    assert max(scaled_moves(ClippedFirst)) > 2


def test_the_clipped_scaled_gradients_of_adversarial_rows_are_within_the_clip_in_float32() -> None:
    generator = torch.Generator().manual_seed(5)
    for size in (1e-30, 1e-3, 1.0, 1e3, 1e20):
        gradients = [torch.randn(1, 40, generator=generator) * size, torch.randn(1, 3, generator=generator) * size]
        scales = [10 ** (torch.rand(40, generator=generator) * 6 - 3), torch.full((3,), 1e3)]
        added = clipping.clipped_sum(apply_scales(gradients, scales), CLIP)
        assert length(added) <= CLIP * (1 + 1e-6)


def deviations(kind: Callable[..., PrivateStep[Any]]) -> Tensor:
    """Of each coordinate's noise in the scaled space, over what is planned."""
    scales, secret = some_scales(example(), torch.float64), Secret()
    drawn = [taken(example(), [], scales, secret, kind) for _ in range(300)]
    noise = torch.stack([torch.cat([(g * s).flatten() for g, s in zip(one, scales, strict=True)]) for one in drawn])
    return noise.std(0) / (1.5 * CLIP)


def test_noise_has_the_planned_deviation_in_the_scaled_space_in_every_coordinate() -> None:
    # 300 draws: a deviation is off by 4 %; one of 21 coordinates is beyond 25 % with a chance below 1e-6.
    assert (deviations(PrivateStep) - 1).abs().max() < 0.25


def test_noise_added_after_scaling_back_is_caught() -> None:
    assert (deviations(NoisedLast) - 1).abs().max() > 1


def test_ghost_norms_refuse_scales() -> None:
    with pytest.raises(RuntimeError, match="got scales"):
        taken(replace(example(), gradients="ghost"), [rows(3)], some_scales(example(), torch.float64))


def test_scales_of_one_change_nothing() -> None:
    batch = rows(9)
    ones = [torch.ones_like(p) for p in example().private]
    wanted = one_at_a_time(example(), batch, lambda norm: min(1.0, CLIP / norm))
    for f, w in zip(taken(example(), [batch], ones), wanted, strict=True):
        torch.testing.assert_close(f, w, rtol=1e-9, atol=1e-12)
