"""The private step against oracles: one-at-a-time gradients, explicit clipping, the declared divisor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dpft.privacy.ledger import Event, LedgerError
from dpft.privacy.mechanism.clipping import clip_factors, clipped_sum, per_example_norms
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.mechanism.step import NonPrivateStep, PrivateStep, SharedStep
from dpft.privacy.randomness import Secret
from dpft.spec import Budget


@dataclass
class Example:
    """A model of two private parameters of unlike size: a tiny classifier on given features."""

    model: nn.Linear
    gradients: str = "hooks"

    def begin(self, step: int) -> None:
        pass

    def rebuild(self) -> None:
        pass

    @property
    def private(self) -> list[nn.Parameter]:
        return [self.model.weight, self.model.bias]

    def losses(self, outputs: Tensor, batch: Tensor) -> Tensor:
        return (outputs**2).sum(1) * 0.3


def replaced(adapted: Example, **changes: object) -> SimpleNamespace:
    """`adapted` with other parts."""
    names = ("model", "private", "losses", "gradients", "begin", "rebuild")
    return SimpleNamespace(**{**{name: getattr(adapted, name) for name in names}, **changes})


class Book:
    """A ledger that remembers, or refuses."""

    def __init__(self, refuse: bool = False) -> None:
        self.events: list[Event] = []
        self.refuse = refuse

    def charge(self, event: Event) -> None:
        if self.refuse:
            raise LedgerError("the ledger must be writable, got a full disk; make room")
        self.events.append(event)


class Silent(Secret):
    """Noise of a known value."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value, self.calls = value, 0

    def normal(self, count: int):
        self.calls += 1
        return super().normal(count) * 0 + self.value


CLIP, EXPECTED = 0.7, 10


def plan(noise: float = 1.5, clip: float = CLIP) -> Plan:
    return Plan(0.1, 5, noise, clip, EXPECTED, Budget(8.0, 1e-6), 7.9, "test")


def example(dtype: torch.dtype = torch.float64) -> Example:
    torch.manual_seed(0)
    return Example(nn.Linear(6, 3).to(dtype))


def rows(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    scale = torch.linspace(0.01, 2, count, dtype=dtype)[:, None] if count else torch.empty(0, 1, dtype=dtype)
    return torch.randn(count, 6, generator=generator, dtype=dtype) * scale


def oracle(adapted: Example, batch: Tensor, clip: float = CLIP) -> list[Tensor]:
    """One example at a time: gradient, norm over all parameters, clip, add."""
    total = [torch.zeros_like(p, dtype=torch.float64) for p in adapted.private]
    for row in batch:
        loss = adapted.losses(adapted.model(row[None]), row[None]).sum()
        gradients = [g.double() for g in torch.autograd.grad(loss, adapted.private)]
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        for whole, g in zip(total, gradients, strict=True):
            whole += g * min(1.0, clip / norm)
    return total


def stepped(adapted: Example, micro: list[Tensor], secret: Secret | None = None, noise: float = 1.5) -> list[Tensor]:
    """The gradients that the optimizer saw (SGD at rate 1), taken from how far the weights moved."""
    before = [p.detach().clone() for p in adapted.private]
    optimizer = torch.optim.SGD(adapted.private, lr=1.0)
    step = PrivateStep(adapted, plan(noise), optimizer, Book(), secret or Silent(), "run")
    step(0, micro)
    step.close()
    return [b - p.detach() for b, p in zip(before, adapted.private, strict=True)]


@pytest.mark.parametrize("micro", [1, 7, 23])
def test_the_update_is_the_clipped_sum_over_the_declared_batch_whatever_the_microbatches(micro: int) -> None:
    # Catches: clipping each parameter by itself, a mean instead of a sum, dividing by the drawn size,
    # a micro-batch counted twice or dropped.
    batch = rows(23)
    expected = [g / EXPECTED for g in oracle(example(), batch)]
    for found, wanted in zip(stepped(example(), list(batch.split(micro))), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_float32_gradients_are_clipped_and_summed_to_float32_accuracy() -> None:
    batch = rows(23, torch.float32)
    expected = [(g / EXPECTED).float() for g in oracle(example(torch.float32), batch)]
    for found, wanted in zip(stepped(example(torch.float32), [batch]), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_some_but_not_all_rows_of_the_fixture_are_clipped() -> None:
    # The oracle above would not see a missing clip if nothing were long, or a missing `min` if all were.
    norms = [float(per_example_norms([g[None] for g in oracle(example(), r[None], 1e9)])) for r in rows(23)]
    assert min(norms) < CLIP < max(norms)


@pytest.mark.parametrize("length", [0.0, 0.5, 0.7, 3.0, 1e6, 1e30])
def test_no_example_adds_more_than_the_clip(length: float) -> None:
    gradients = [torch.full((1, 4), length / 2, dtype=torch.float64)]
    added = clipped_sum(gradients, CLIP)[0].norm().item()
    assert added <= CLIP * (1 + 1e-6)
    if length:
        assert added == pytest.approx(min(length, CLIP), rel=1e-6)


def test_a_float32_gradient_whose_square_overflows_is_clipped_not_dropped() -> None:
    # Catches norms squared in float32: 1e30 squared is infinite there.
    added = clipped_sum([torch.full((1, 4), 1e30)], CLIP)[0]
    assert added.norm().item() == pytest.approx(CLIP, rel=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_example_whose_gradient_is_not_finite_adds_nothing(bad: float) -> None:
    # Catches scaling by zero instead of leaving out: 0 * NaN is NaN and would reach every parameter.
    clean = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    dirty = torch.cat([clean, torch.tensor([[bad, 1.0]])])
    torch.testing.assert_close(clipped_sum([dirty], CLIP)[0], clipped_sum([clean], CLIP)[0])


def test_one_nan_row_leaves_the_weights_finite_and_the_step_charged() -> None:
    batch = rows(5)
    spoiled = torch.cat([batch, torch.full((1, 6), float("nan"), dtype=torch.float64)])
    expected = [g / EXPECTED for g in oracle(example(), batch)]
    for found, wanted in zip(stepped(example(), [spoiled]), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_clip_factors_of_no_rows_are_no_factors() -> None:
    assert clip_factors(torch.zeros(0, dtype=torch.float64), CLIP).shape == (0,)


def test_an_empty_batch_is_a_step_of_noise_alone() -> None:
    # Catches skipping empty batches: their absence would tell that nobody was drawn.
    for found in stepped(example(), [], Silent(2.0)):
        torch.testing.assert_close(found, torch.full_like(found, 2.0 * 1.5 * CLIP / EXPECTED))


def test_noise_is_drawn_once_a_logical_batch_for_each_parameter() -> None:
    # Catches noise per micro-batch (too much) and noise shared between parameters.
    secret = Silent(0.0)
    stepped(example(), list(rows(20).split(3)), secret)
    assert secret.calls == len(example().private)


def test_noise_has_the_planned_deviation() -> None:
    # Catches noise scaled by sigma alone, or by sigma * clip / drawn size.
    adapted, secret = example(), Secret()
    drawn = torch.cat([f.flatten() for _ in range(300) for f in stepped(adapted, [], secret)])
    ratio = drawn.std().item() / (1.5 * CLIP / EXPECTED)
    assert abs(ratio - 1) < 5 / math.sqrt(2 * len(drawn))


def test_each_step_is_charged_once_with_the_plans_rate_and_noise() -> None:
    book, adapted = Book(), example()
    step = PrivateStep(adapted, plan(), torch.optim.SGD(adapted.private, lr=1.0), book, Secret(), "run")
    step(3, [rows(4), rows(2)])
    step(4, [])
    assert book.events == [Event("run", 3, 0.1, 1.5), Event("run", 4, 0.1, 1.5)]


def test_a_step_that_cannot_be_charged_releases_nothing() -> None:
    # Catches charging after the update.
    adapted, secret = example(), Silent(1.0)
    before = [p.detach().clone() for p in adapted.private]
    step = PrivateStep(adapted, plan(), torch.optim.SGD(adapted.private, lr=1.0), Book(refuse=True), secret, "run")
    with pytest.raises(LedgerError):
        step(0, [rows(4)])
    assert secret.calls == 0
    assert all(torch.equal(b, p) for b, p in zip(before, adapted.private, strict=True))


def test_no_unnoised_gradient_stays_on_the_parameters() -> None:
    adapted = example()
    stepped(adapted, [rows(4)])
    assert all(p.grad is None and p.grad_sample is None for p in adapted.private)


def test_adding_an_example_moves_the_sum_by_at_most_the_clip() -> None:
    # Sensitivity, on adversarial neighbours: aligned, opposed, duplicate, huge.
    batch = rows(8)
    for extra in (batch[-1:], -batch[-1:], batch[:1], batch[-1:] * 1e6):
        without = clipped(example(), [batch])
        with_it = clipped(example(), [batch, extra])
        moved = math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(with_it, without, strict=True)))
        assert moved <= CLIP * (1 + 1e-6)


def test_the_sum_of_very_many_rows_moves_by_one_clip_where_one_is_removed() -> None:
    """Catches: micro-batches added up in float32, where the sum of 100,000 rows moves by 1.003 clips."""

    class Given(SharedStep[Tensor]):
        def __init__(self, numbers: int) -> None:
            self.adapted, self.scales = SimpleNamespace(private=[nn.Parameter(torch.zeros(numbers))]), None
            self.clipper = lambda batch, scales: [batch.sum(0)]

    rows = torch.randn(100_000, 50, generator=torch.Generator().manual_seed(0)) + 0.3
    rows /= rows.norm(dim=1, keepdim=True)
    step = Given(rows.shape[1])
    (whole,) = step._sum(rows.split(64))
    for gone in (0, 33_333, 99_999):
        (less,) = step._sum(torch.cat([rows[:gone], rows[gone + 1 :]]).split(64))
        assert float((whole - less).norm()) <= 1 + 1e-5


def clipped(adapted: Example, micro: list[Tensor]) -> list[Tensor]:
    return [g * EXPECTED for g in stepped(adapted, micro)]


def test_a_parameter_outside_the_graph_is_refused() -> None:
    # Catches a silent zero where Opacus left no per-example gradient.
    adapted = example()
    both = nn.Sequential(adapted.model, nn.Linear(2, 2))
    both.forward = adapted.model.forward  # type: ignore[method-assign]
    two = replaced(adapted, model=both, private=list(both.parameters()))
    step = PrivateStep(two, plan(), torch.optim.SGD(two.private, lr=1.0), Book(), Secret(), "run")
    with pytest.raises(RuntimeError, match="every private parameter"):
        step(0, [rows(3)])


def test_a_gradient_too_long_for_float64_adds_nothing() -> None:
    assert clipped_sum([torch.full((1, 4), 1e200, dtype=torch.float64)], CLIP)[0].norm().item() <= CLIP


def test_autocast_around_a_step_does_not_loosen_the_clip() -> None:
    # Catches a sum in bfloat16: under autocast the sensitivity reached 3 clips.
    batch = rows(23, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        around = stepped(example(torch.float32), [batch])
    for found, wanted in zip(around, stepped(example(torch.float32), [batch]), strict=True):
        assert torch.equal(found, wanted)


def test_a_loss_over_the_batch_is_refused() -> None:
    # Catches a batch mean, which couples examples: sensitivity reached 11.9 clips.
    adapted = example()
    mean = replaced(adapted, losses=lambda out, _: (out**2).mean())
    step = PrivateStep(mean, plan(), torch.optim.SGD(adapted.private, lr=1.0), Book(), Secret(), "run")
    with pytest.raises(RuntimeError, match="one number per example"):
        step(0, [rows(3)])


def test_a_plan_without_noise_is_no_private_step() -> None:
    adapted = example()
    bare = Plan(0.1, 5, 0.0, None, EXPECTED, None, None, None)
    with pytest.raises(ValueError, match="needs a private plan"):
        PrivateStep(adapted, bare, torch.optim.SGD(adapted.private, lr=1.0), Book(), Secret(), "run")


def test_the_plain_step_is_the_sum_of_the_losses_over_the_declared_batch() -> None:
    adapted, batch = example(), rows(12)
    loss = adapted.losses(adapted.model(batch), batch).sum() / EXPECTED
    expected = torch.autograd.grad(loss, adapted.private)
    before = [p.detach().clone() for p in adapted.private]
    bare = Plan(0.1, 5, 0.0, None, EXPECTED, None, None, None)
    NonPrivateStep(adapted, bare, torch.optim.SGD(adapted.private, lr=1.0))(0, list(batch.split(5)))
    for b, p, wanted in zip(before, adapted.private, expected, strict=True):
        torch.testing.assert_close(b - p.detach(), wanted, rtol=1e-12, atol=1e-14)
