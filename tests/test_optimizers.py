"""Each update rule against a second implementation in float64; averages; the learning rate of each step."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from dpft import Budget, Spec, UserError, averages, optimizers
from dpft.optimizers import FLOOR, SOFTEN, CorrectedAdam, ScaledAdam
from dpft.privacy.plan import Plan
from dpft.spec import Optimizer

PLAN = Plan(0.1, 50, 1.2, 0.5, 30, Budget(8.0, 1e-5), 7.9, "test")
VARIANCE = (1.2 * 0.5 / 30) ** 2


def gradients(count: int, size: int = 6, scale: float = 0.05) -> Any:
    return np.random.default_rng(4).normal(0.01, scale, (count, size))


def moved(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, given: Any) -> Any:
    for gradient in given:
        parameter.grad = torch.tensor(gradient, dtype=parameter.dtype)
        optimizer.step()
    return parameter.detach().numpy()


def corrected(given: Any, rate: float, variance: float, floor: float) -> Any:
    """DP-AdamBC's algorithm in numpy, by sums instead of running means."""
    w = np.zeros(given.shape[1])
    for t in range(1, len(given) + 1):
        past = given[:t]
        first, second = 0.9 ** np.arange(t)[::-1], 0.999 ** np.arange(t)[::-1]
        mean = (first[:, None] * past).sum(0) / first.sum()
        square = (second[:, None] * past**2).sum(0) / second.sum()
        w -= rate * mean / np.sqrt(np.maximum(square - variance, floor))
    return w


def test_the_corrected_adam_is_the_papers_update() -> None:
    # Catches: the variance taken off a moment that is not freed of its start, the floor under the root, no floor.
    parameter = nn.Parameter(torch.zeros(6, dtype=torch.float64))
    given = gradients(40)
    found = moved(CorrectedAdam([parameter], 0.1, VARIANCE), parameter, given)
    np.testing.assert_allclose(found, corrected(given, 0.1, VARIANCE, FLOOR * VARIANCE), rtol=1e-9)


def test_some_of_its_coordinates_are_at_the_floor_and_some_are_not() -> None:
    square = (gradients(40) ** 2).mean(0)
    assert (square > 2 * VARIANCE).any()
    assert (np.cumsum(gradients(40) ** 2, 0)[0] < VARIANCE).any()


def test_without_noise_the_corrected_adam_is_adam() -> None:
    given = gradients(30)
    one, two = (nn.Parameter(torch.zeros(6, dtype=torch.float64)) for _ in range(2))
    ours = moved(CorrectedAdam([one], 0.1, 0.0), one, given)
    np.testing.assert_allclose(ours, moved(torch.optim.Adam([two], lr=0.1), two, given), rtol=1e-4)


def test_its_denominator_is_the_signals_and_not_the_noises() -> None:
    # Adam would move by rate * 0.01 / 0.05 a step; freed of the noise it moves by about the rate.
    variance, signal = 0.05**2, 0.03
    given = np.random.default_rng(0).normal(signal, 0.05, (600, 400))
    parameter = nn.Parameter(torch.zeros(400, dtype=torch.float64))
    found = moved(CorrectedAdam([parameter], 1e-3, variance), parameter, given)
    assert -found.mean() / (600 * 1e-3) == pytest.approx(1.0, rel=0.1)


def test_the_noise_that_is_taken_off_is_the_plans() -> None:
    assert optimizers.noise_variance(PLAN) == pytest.approx(VARIANCE)
    assert optimizers.noise_variance(Plan(0.1, 50, 0.0, None, 30, None, None, None)) == 0
    made = optimizers.make(Spec(optimizer="adam_bc", learning_rate=0.1), PLAN, {"z": nn.Parameter(torch.zeros(2))})
    assert isinstance(made, CorrectedAdam)
    assert made.variance == pytest.approx(VARIANCE)


def test_scales_are_the_softened_inverse_of_the_second_moment_and_keep_the_noise_as_a_whole() -> None:
    given = [gradients(5, 6), gradients(5, 3, 0.5)]
    parameters = [nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(3))]
    optimizer = ScaledAdam(parameters, lr=0.1)
    for one, two in zip(*given, strict=True):
        parameters[0].grad, parameters[1].grad = torch.tensor(one).float(), torch.tensor(two).float()
        optimizer.step()
    weights = 0.999 ** np.arange(5)[::-1]
    square = np.concatenate([(weights[:, None] * g**2).sum(0) / weights.sum() for g in given])
    size = np.sqrt(square / square.mean()) + SOFTEN
    found = torch.cat(optimizer.scales(parameters)).numpy()
    np.testing.assert_allclose(found, np.sqrt((size**2).mean()) / size, rtol=1e-5)
    assert (1 / found**2).mean() == pytest.approx(1, rel=1e-5)
    assert found[:6].min() > found[6:].max()  # small gradients are scaled up


def test_scales_come_from_earlier_steps_alone() -> None:
    # Catches scales that see the gradient they are to scale.
    parameter = nn.Parameter(torch.zeros(4))
    optimizer = ScaledAdam([parameter], lr=0.1)
    parameter.grad = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert torch.equal(optimizer.scales([parameter])[0], torch.ones(4))
    optimizer.step()
    before = optimizer.scales([parameter])[0]
    parameter.grad = torch.tensor([9.0, 0.0, 0.0, 0.0])
    assert torch.equal(optimizer.scales([parameter])[0], before)
    assert not torch.equal(before, torch.ones(4))


def test_what_has_not_moved_yet_is_scaled_as_the_average_and_nothing_overflows() -> None:
    known, fresh = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))
    optimizer = ScaledAdam([known, fresh], lr=0.1)
    known.grad = torch.full((3,), 2.0)
    optimizer.step()
    assert torch.allclose(torch.cat(optimizer.scales([known, fresh])), torch.ones(5))
    known.grad = torch.zeros(3)
    silent = ScaledAdam([known], lr=0.1)
    silent.step()
    assert torch.equal(silent.scales([known])[0], torch.ones(3))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_rate_rises_over_the_warm_up_and_falls_to_zero_or_stays(schedule: Any) -> None:
    spec = Spec(schedule=schedule, learning_rate=2.0, warmup=0.1)
    optimizer = optimizers.make(spec, PLAN, {"z": nn.Parameter(torch.zeros(1))})

    def rate(step: int) -> float:
        optimizers.set_rate(optimizer, spec, step, 100)
        return float(optimizer.param_groups[0]["lr"])

    assert [rate(step) for step in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    middle, last = {"constant": (2.0, 2.0), "linear": (1.0, 2 / 90), "cosine": (1.0, 2 * 0.000305)}[schedule]
    assert rate(55) == pytest.approx(middle)
    assert rate(99) == pytest.approx(last, rel=1e-2)


def test_without_a_warm_up_the_first_step_has_the_whole_rate() -> None:
    spec = Spec(learning_rate=2.0, warmup=0.0)
    optimizer = optimizers.make(spec, PLAN, {"z": nn.Parameter(torch.zeros(1))})
    optimizers.set_rate(optimizer, spec, 0, 100)
    assert optimizer.param_groups[0]["lr"] == 2.0


@pytest.mark.parametrize("kind", get_args(Optimizer))
def test_the_head_moves_by_its_own_rate_on_the_same_schedule(kind: Any) -> None:
    # Catches: one rate set on every group, a schedule that the head is left out of, a head told by another name.
    given, rates = torch.tensor([0.3, -0.02]), {"z": 0.1, "headroom": 0.1, "head.weight": 0.4, "head.bias": 0.4}

    def walked_by(spec: Spec) -> dict[str, Any]:
        updated = {name: nn.Parameter(torch.zeros(2)) for name in rates}
        optimizer = optimizers.make(spec, PLAN, updated)
        for step in range(12):
            optimizers.set_rate(optimizer, spec, step, 12)
            for parameter in updated.values():
                parameter.grad = given.clone()
            optimizer.step()
        return {name: parameter.detach() for name, parameter in updated.items()}

    one = walked_by(Spec(optimizer=kind, learning_rate=0.1, warmup=0.3))
    own = walked_by(Spec(optimizer=kind, learning_rate=0.1, warmup=0.3, head_learning_rate=0.4))
    assert one["head.weight"].any()
    for name, rate in rates.items():
        torch.testing.assert_close(one[name], one["z"])
        torch.testing.assert_close(own[name], one["z"] * rate / 0.1)


def test_a_head_without_a_rate_of_its_own_leaves_the_json_of_a_spec_as_it_was() -> None:
    # Checkpoints and searches are known by digests of it: catches null written into those of before.
    assert "head_learning_rate" not in Spec(learning_rate=0.1).to_json()
    own = Spec(learning_rate=0.1, head_learning_rate=0.2)
    assert Spec.from_json(own.to_json()) == own
    assert Spec.from_json(Spec().to_json()) == Spec()


def walked(spelled: str, steps: int = 20) -> tuple[Any, Any]:
    """A parameter's path, and what it is given at its end."""
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    path = np.random.default_rng(2).normal(size=(steps, 3)).cumsum(0)
    average = averages.make(spelled, {"w": parameter}, steps)
    for step, value in enumerate(path):
        parameter.data = torch.tensor(value)
        average.add(step)
    average.apply()
    return path, parameter.detach().numpy()


def test_a_tail_is_the_mean_of_the_last_weights() -> None:
    path, found = walked("tail:0.25")
    np.testing.assert_allclose(found, path[-5:].mean(0), rtol=1e-12)
    path, found = walked("tail:1")
    np.testing.assert_allclose(found, path.mean(0), rtol=1e-12)
    path, found = walked("tail:0.001")  # one step at least
    np.testing.assert_allclose(found, path[-1], rtol=1e-12)


def test_an_exponential_average_is_freed_of_its_start() -> None:
    path, found = walked("ema:0.8")
    weights = 0.8 ** np.arange(20)[::-1]
    np.testing.assert_allclose(found, (weights[:, None] * path).sum(0) / weights.sum(), rtol=1e-12)


def test_without_an_average_the_last_weights_stay() -> None:
    path, found = walked("none")
    np.testing.assert_array_equal(found, path[-1])


@pytest.mark.parametrize("spelled", ["ema", "ema:1", "ema:x", "tail:0", "tail:1.5", "mean:0.5", "", "ema:nan"])
def test_an_average_that_is_none_is_one_line(spelled: str) -> None:
    with pytest.raises(UserError, match=r"average must be none, ema:DECAY.*; pass --average"):
        Spec(average=spelled)


@pytest.mark.parametrize(("field", "value"), [("warmup", 1.0), ("warmup", -0.1), ("probe_first", 1), ("warmup", True)])
def test_a_share_of_the_steps_lies_below_one(field: str, value: Any) -> None:
    with pytest.raises(UserError, match="must be a share of the steps"):
        Spec(**{field: value})
