"""From a spec to an adapted model: the same one on every precision, scaled by public text alone."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dpft import Machine, Spec, models
from dpft.adapt import adapt
from dpft.batch import Batch
from dpft.hardware import resolve
from dpft.tasks import Rows
from dpft.tasks.encode import encode
from dpft.tasks.microbatch import collate

FP32 = resolve(Machine(device="cpu", precision="fp32"))


def spec(folder: Path, representation: str = "mean") -> Spec:
    return Spec(model=str(folder), representation=representation, options={"dim": 12}, max_length=32)


@pytest.mark.parametrize("representation", ["mask", "cls", "mean"])
def test_what_the_head_reads_has_about_unit_length(tiny_model: Path, representation: str) -> None:
    made = adapt(spec(tiny_model, representation), 2, FP32)
    zero = np.zeros(1, np.int64)
    empty = collate(encode(Rows([""], None, zero), made.tokenizer, representation, 32), zero)
    seen: list[torch.Tensor] = []
    made.adapted.model.head.register_forward_hook(lambda _module, inputs, _out: seen.append(inputs[0]))
    made.adapted.model(empty)  # a little off one: z is not zero here
    assert math.log2(made.adapted.model.scale).is_integer()
    assert 0.4 < seen[0].norm().item() < 2.5


def test_the_scale_is_the_same_in_every_precision(tiny_bert: Path) -> None:
    # Catches a scale found in bf16: near a boundary the loaded model would be another one.
    narrow = dataclasses.replace(FP32, dtype=torch.bfloat16, attention="eager")
    assert adapt(spec(tiny_bert), 2, narrow).adapted.model.scale == adapt(spec(tiny_bert), 2, FP32).adapted.model.scale


def test_a_score_has_one_output_and_a_squared_loss(tiny_bert: Path) -> None:
    made = adapt(spec(tiny_bert), 0, FP32).adapted
    assert made.model.head.out_features == 1
    assert made.regression


def test_an_encoder_that_answers_nothing_is_left_unscaled(tiny_bert: Path) -> None:
    model = models.load(spec(tiny_bert), 2, FP32)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.zero_()
    one = torch.zeros(1, 3, dtype=torch.long)
    model.balance(Batch(one, None, None, one[:, 0], one[:, 0]))
    assert model.scale == 1.0
