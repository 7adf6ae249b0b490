"""The audit of runs that label words: planted rows stand at every word of theirs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path as File
from typing import Any

import numpy as np
import pytest
import torch

from dpft.audit.mechanism import gradient_canaries, sensitivity
from dpft.audit.mechanism.canary_gradients import CanaryModel
from dpft.audit.mechanism.driver import Mechanism
from dpft.inference.build import build_model, resolve_hardware
from dpft.inference.trained_model import Trained
from dpft.objectives.tagging import Tagging
from dpft.privacy.mechanism.plan import Plan
from dpft.runs.folder import Run
from dpft.spec import Budget, Machine, Spec
from dpft.tokens.microbatch import collate, microbatches
from tests.audit.alarms import of_the_shipped_path
from tests.audit.conftest import EXAMPLES

WAYS: dict[str, dict[str, Any]] = {"slash": {"dim": 16}, "linear": {}}


@pytest.fixture(params=WAYS)
def trained(request: pytest.FixtureRequest, tiny_bert: File) -> Trained:
    budget = Budget(8.0, 1e-4)
    spec = Spec(
        model=str(tiny_bert), method=request.param, options=WAYS[request.param], budget=budget, batch_size=72,
        learning_rate=0.1, clip=0.7, max_length=32, representation="token", optimizer="adam",
    )  # fmt: skip
    settled = resolve_hardware(spec, Machine(device="cpu", precision="fp32"))
    made = build_model(spec, 3, False, settled, objective=Tagging(), check_trainable=True)
    plan = Plan(72 / EXAMPLES, 70, 0.9, spec.clip, 72, budget, 7.9, "test")
    run = Run(File("unsaved"), spec, plan, "test", File("unsaved"), "")
    return Trained(run, made.adapted, ("O", "B-x", "I-x"), False, made.tokenizer, settled)


def test_a_planted_rows_clipped_gradient_is_the_clip_along_its_own_axis(trained: Trained) -> None:
    planted, clip = gradient_canaries.make_canaries(trained, 0.7), 0.7
    trained.adapted.begin(0)
    trained.adapted.model.per_example = True
    with CanaryModel(trained.adapted, planted.row_settings, clip) as canary_model:
        for row in (0, 5, len(planted) - 1):
            batch = collate(planted.data, np.array([row]))
            assert int((batch.labels == row).sum()) > 1
            loss = canary_model.losses(canary_model.model(batch), batch).sum()
            found = dict(zip(trained.adapted.named, torch.autograd.grad(loss, list(canary_model.private)), strict=True))
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in found.values()))
            expected, _ = planted.expected(np.array([row]))
            weight = found["head.weight"].double() / norm
            torch.testing.assert_close(weight[:, : len(planted)], expected, rtol=0, atol=2e-6)


def test_the_path_passes(trained: Trained) -> None:
    assert of_the_shipped_path(trained) == []
    assert [(c.name, c.value, c.high) for c in sensitivity.checks(trained, Mechanism()) if not c.passed] == []


def test_a_batch_whose_padding_is_judged_fails(trained: Trained) -> None:
    # The injected bug: padding counts as words of class 0, so that a row's gradient depends on its mates' lengths.
    def judged(*words: Any) -> Any:
        for batch in microbatches(*words):
            yield replace(batch, labels=batch.labels.clamp(min=0))

    found = sensitivity.checks(trained, replace(Mechanism(), batches=judged))
    assert [c.name for c in found if not c.passed] != []
