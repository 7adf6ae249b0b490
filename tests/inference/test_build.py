"""From a spec to an adapted model: the same one on every precision, scaled by public text alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from dpft import Machine, Spec, models
from dpft.data.batch import Batch
from dpft.data.examples import Examples
from dpft.inference.build import build_model
from dpft.machine.hardware import resolve
from dpft.objectives.regression import Regression
from dpft.tasks import sample
from dpft.tokens.encode import encode
from dpft.tokens.microbatch import collate

FP32 = resolve(Machine(device="cpu", precision="fp32"))


def spec(folder: Path, representation: str = "mean") -> Spec:
    return Spec(model=str(folder), representation=representation, options={"dim": 12}, max_length=32)


@pytest.mark.parametrize("representation", ["mask", "cls", "mean"])
@pytest.mark.parametrize("paired", [False, True])
def test_what_the_head_reads_is_centred_and_of_about_unit_length(
    tiny_model: Path, representation: str, paired: bool
) -> None:
    made = build_model(spec(tiny_model, representation), 2, paired, FP32)
    texts, _ = sample.generate(60, seed=99)
    rows = Examples(texts[:30], texts[30:] if paired else None, np.zeros(30, np.int64))
    public = encode(rows, made.tokenizer, representation, 32)
    seen: list[torch.Tensor] = []
    made.adapted.model.head.register_forward_hook(lambda _module, inputs, _out: seen.append(inputs[0].detach()))
    made.adapted.model(collate(public, np.arange(30)))
    assert seen[0].mean(0).norm().item() < 0.5
    assert 0.6 < seen[0].norm(dim=1).mean().item() < 1.4


def test_the_head_is_standardised_alike_in_every_precision(tiny_bert: Path) -> None:
    # Catches a standardisation found in bf16: the loaded model would be another one.
    narrow = dataclasses.replace(FP32, dtype=torch.bfloat16, attention="eager")
    one, other = (build_model(spec(tiny_bert), 2, False, at).adapted.model for at in (narrow, FP32))
    torch.testing.assert_close(one.center, other.center, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.spread, other.spread, rtol=1e-4, atol=1e-5)


def test_a_score_has_one_output_and_a_squared_loss(tiny_bert: Path) -> None:
    made = build_model(spec(tiny_bert), 0, True, FP32).adapted
    assert made.model.head.out_features == 1
    assert made.objective == Regression()


def test_a_saved_run_keeps_its_standardisation(tiny_bert: Path) -> None:
    # Catches one that is found again from texts which a later version words otherwise.
    made, later = (build_model(spec(tiny_bert), 2, False, FP32).adapted for _ in range(2))
    later.model.center += 1
    later.load(made.state())
    assert torch.equal(later.model.center, made.model.center)


def test_an_encoder_that_answers_nothing_leaves_the_head_finite(tiny_bert: Path) -> None:
    model = models.load(spec(tiny_bert), 2, FP32)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.zero_()
    two = torch.zeros(2, 3, dtype=torch.long)
    model.standardise([Batch(two, None, None, two[:, 0], two[:, 0])])
    assert torch.isfinite(model.spread).all()
