"""The scales of gradients; the learning rate of each step and of each tensor."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from dpft import Spec, UserError
from dpft.spec import Optimizer
from dpft.training import optimizers
from dpft.training.optimizers import SOFTEN, ScaledAdam


def gradients(count: int, size: int = 6, scale: float = 0.05) -> Any:
    return np.random.default_rng(4).normal(0.01, scale, (count, size))


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
    spec = Spec(schedule=schedule, learning_rate=2.0, warmup=0.1, optimizer="adam")
    optimizer = optimizers.make(spec, {"z": nn.Parameter(torch.zeros(1))})

    def rate(step: int) -> float:
        optimizers.set_rate(optimizer, spec, step, 100)
        return float(optimizer.param_groups[0]["lr"])

    assert [rate(step) for step in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    middle, last = {"constant": (2.0, 2.0), "linear": (1.0, 2 / 90), "cosine": (1.0, 2 * 0.000305)}[schedule]
    assert rate(55) == pytest.approx(middle)
    assert rate(99) == pytest.approx(last, rel=1e-2)


def test_without_a_warm_up_the_first_step_has_the_whole_rate() -> None:
    spec = Spec(learning_rate=2.0, warmup=0.0, optimizer="adam")
    optimizer = optimizers.make(spec, {"z": nn.Parameter(torch.zeros(1))})
    optimizers.set_rate(optimizer, spec, 0, 100)
    assert optimizer.param_groups[0]["lr"] == 2.0


@pytest.mark.parametrize("kind", get_args(Optimizer))
def test_the_head_moves_by_its_own_rate_on_the_same_schedule(kind: Any) -> None:
    # Catches: one rate set on every group, a schedule that the head is left out of, a head told by another name.
    given, rates = torch.tensor([0.3, -0.02]), {"z": 0.1, "headroom": 0.1, "head.weight": 0.4, "head.bias": 0.4}

    def walked_by(spec: Spec) -> dict[str, Any]:
        updated = {name: nn.Parameter(torch.zeros(2)) for name in rates}
        optimizer = optimizers.make(spec, updated)
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


@pytest.mark.parametrize("value", [1.0, -0.1, True])
def test_the_warm_up_is_a_share_of_the_steps_below_one(value: Any) -> None:
    with pytest.raises(UserError, match="warmup must be a share of the steps"):
        Spec(warmup=value)


def test_a_spec_of_an_earlier_version_is_read_where_it_says_nothing_by_what_is_gone() -> None:
    # Catches: a run folder of before that cannot be opened, and one whose averaging is silently left out.
    before = Spec(learning_rate=0.1).to_json() | {"average": "none", "probe_first": 0.0}
    assert Spec.from_json(before) == Spec(learning_rate=0.1)
    for gone in ({"average": "tail:0.5"}, {"probe_first": 0.2}, {"optimizer": "adam_bc"}):
        with pytest.raises(UserError):
            Spec.from_json(before | gone)
