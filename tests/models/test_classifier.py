"""The classifier: what each representation reads, against the stock model, and what stays switched off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dpft import models
from dpft.data.batch import Batch
from dpft.data.encoded import Encoded
from dpft.data.examples import Examples
from dpft.machine.hardware import Hardware
from dpft.models.classifier import Classifier, initialise_head
from dpft.spec import Representation, Spec
from dpft.tokens.encode import encode
from dpft.tokens.microbatch import collate

PLAIN = Hardware(torch.device("cpu"), torch.float32, "sdpa", 2048)
TEXTS = ["a good film", "the story is not very good, it is boring!", "", "a"]
PAIRS = ["it is bad", "", "the man walks", "a a a a a a"]
REPRESENTATIONS: tuple[Representation, ...] = ("cls", "mask", "mean")


def encoded(folder: Path, representation: Representation, pairs: bool) -> Encoded:
    rows = Examples(TEXTS, PAIRS if pairs else None, np.zeros(len(TEXTS), np.int64))
    return encode(rows, models.tokenizer(str(folder)), representation, 64)


def classifier(folder: Path, representation: Representation) -> Classifier:
    spec = Spec(model=str(folder), representation=representation, max_length=64)
    model = models.load(spec, 3, PLAIN).double()
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    return model


def batch_of(data: Encoded, rows: list[int]) -> Batch:
    return collate(data, np.array(rows, np.int64))


@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pair"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_logits_are_the_heads_of_the_stock_models_states(
    tiny_model: Path, representation: Representation, pairs: bool
) -> None:
    """The oracle takes one unpadded row at a time, so it also shows that padding changes nothing."""
    from transformers import AutoModel

    stock = AutoModel.from_pretrained(tiny_model, dtype=torch.float64, attn_implementation="eager").eval()
    model, data = classifier(tiny_model, representation), encoded(tiny_model, representation, pairs)
    found = model(batch_of(data, [0, 1, 2, 3]))
    for number in range(len(data)):
        one = batch_of(data, [number])
        inputs: dict[str, Any] = {} if one.types is None else {"token_type_ids": one.types}
        states: Tensor = stock(input_ids=one.ids, **inputs).last_hidden_state[0]
        if representation == "mean":
            read = states.mean(0)
        else:
            read = states[0 if representation == "cls" else one.ids[0].tolist().index(data_mask(tiny_model))]
        wanted = model.head(read if representation != "mean" else read.float().double())
        torch.testing.assert_close(found[number], wanted, rtol=0, atol=1e-5 if representation == "mean" else 1e-10)


def data_mask(folder: Path) -> int:
    return int(models.tokenizer(str(folder)).mask_token_id)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_dropout_is_off_while_training(tiny_model: Path, representation: Representation) -> None:
    model = classifier(tiny_model, representation)
    assert model.backbone.config.hidden_dropout_prob > 0
    batch = batch_of(encoded(tiny_model, representation, False), [0, 1])
    judged = model.eval()(batch)
    model.train()
    assert model.training
    assert model.head.training
    assert not any(module.training for module in model.backbone.modules())
    assert torch.equal(model(batch), judged)
    assert torch.equal(model(batch), model(batch))


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_what_stands_in_the_padding_changes_nothing(tiny_model: Path, representation: Representation) -> None:
    model = classifier(tiny_model, representation)
    batch = batch_of(encoded(tiny_model, representation, True), [0, 1, 2, 3])
    assert batch.allowed is not None
    other = torch.where(batch.allowed, batch.ids, torch.full_like(batch.ids, 9))
    # RoBERTa counts positions from its padding tokens, so only padding after a row may change: it does here.
    changed = Batch(other, batch.allowed, batch.types, batch.read, batch.labels)
    torch.testing.assert_close(model(changed), model(batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_batch_mates_change_nothing(tiny_model: Path, representation: Representation) -> None:
    model, data = classifier(tiny_model, representation), encoded(tiny_model, representation, False)
    together, others = model(batch_of(data, [0, 1, 2])), model(batch_of(data, [0, 3, 3, 1]))
    torch.testing.assert_close(together[0], others[0], rtol=0, atol=1e-6)


def test_the_heads_start_is_public_small_and_the_seeds_alone() -> None:
    heads = [torch.nn.Linear(300, 20) for _ in range(3)]
    for head, seed in zip(heads, (1, 1, 2), strict=True):
        initialise_head(head, seed)
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    assert float(heads[0].weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert not heads[0].bias.any()


def test_a_bf16_encoder_still_answers_in_float32(tiny_model: Path) -> None:
    narrow = Hardware(torch.device("cpu"), torch.bfloat16, "eager", 2048)
    for representation in REPRESENTATIONS:
        spec = Spec(model=str(tiny_model), representation=representation, max_length=64)
        model, exact = (models.load(spec, 2, hardware) for hardware in (narrow, PLAIN))
        batch = batch_of(encoded(tiny_model, representation, False), [0, 1, 2, 3])
        assert model.head.weight.dtype == torch.float32
        assert model(batch).dtype == torch.float32
        torch.testing.assert_close(model(batch), exact(batch), rtol=0, atol=0.05)
        assert model.digest == exact.digest
