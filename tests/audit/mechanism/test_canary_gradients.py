"""Planted rows: their clipped gradient is C e_i, on every way to a clipped sum; and the path passes on all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dpft.audit.mechanism import checks, gradient_canaries
from dpft.audit.mechanism.canary_gradients import CanaryModel
from dpft.audit.mechanism.driver import Mechanism
from dpft.inference.trained_model import Trained
from dpft.tokens.microbatch import collate
from tests.audit.alarms import of_the_shipped_path
from tests.audit.conftest import MakeTrained

WAYS = {
    "hooks": ("slash", {"dim": 16}, 2),
    "ghost": ("full", {}, 2),
    "frozen features": ("linear", {}, 3),
    "carriers": ("rgp", {}, 2),
    "scores": ("lora", {"rank": 2}, 0),
}


def made(make_trained: MakeTrained, way: str) -> Trained:
    method, options, labels = WAYS[way]
    return make_trained(method, labels, **options)


@pytest.mark.parametrize("way", WAYS)
def test_a_planted_rows_clipped_gradient_is_the_clip_along_its_own_axis(make_trained: MakeTrained, way: str) -> None:
    # The oracle is autograd, one row at a time, clipped by hand. Catches a label that the model finds likely (a short
    # gradient), a column off by one, gradients that leak into the method's own tensors.
    trained, clip = made(make_trained, way), 0.7
    planted = gradient_canaries.make_canaries(trained, clip)
    trained.adapted.begin(0)
    trained.adapted.model.per_example = True
    total = torch.zeros_like(trained.adapted.model.head.weight, dtype=torch.float64)
    with CanaryModel(trained.adapted, planted.row_settings, clip) as canary_model:
        for row in (0, 5, len(planted) - 1):
            batch = collate(planted.data, np.array([row]))
            loss = canary_model.losses(canary_model.model(batch), batch).sum()
            found = dict(zip(trained.adapted.named, torch.autograd.grad(loss, list(canary_model.private)), strict=True))
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in found.values()))
            assert norm > 1e3 * clip
            weight = found["head.weight"].double() / norm
            expected, _ = planted.expected(np.array([row]))
            torch.testing.assert_close(weight[:, : len(planted)], expected, rtol=0, atol=2e-6)
            torch.testing.assert_close(float(weight.norm()), 1.0, rtol=0, atol=2e-6)
            total += weight
    read = planted.read(total)
    assert read[[0, 5, len(planted) - 1]] == pytest.approx(1, abs=1e-5)
    assert np.delete(read, [0, 5, len(planted) - 1]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_a_clipped_sum_passes(make_trained: MakeTrained, way: str) -> None:
    assert of_the_shipped_path(made(make_trained, way)) == []


def test_no_hook_stays_on_the_model(trained: Trained) -> None:
    model = trained.adapted.model
    checks.run_attacks(trained, Mechanism(), 8)
    assert not model._forward_pre_hooks
    assert not model.head._forward_pre_hooks
    assert not model.head._forward_hooks
    assert model.per_example is False


def test_the_audit_moves_no_weight(trained: Trained) -> None:
    before = trained.adapted.state()
    checks.run_attacks(trained, Mechanism(), 8)
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.adapted.state().items())
