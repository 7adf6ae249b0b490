"""One linear layer on the first token, written into every family's stock head: the same logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from dpft.exports import stock_heads
from dpft.methods import CannotMerge
from dpft.models.architectures.encoders import ENCODERS
from tests.exports.conftest import sizes

IDS = torch.randint(5, 60, (16, 12), generator=torch.Generator().manual_seed(1))


def classifier(kind: str, outputs: int = 3, scale: float = 1.0, **more: Any) -> Any:
    """A random stock classifier whose last layer norm is `scale` times as wide as it would be."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**sizes(kind, layers=2), **more}, num_labels=outputs)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight *= scale
    return model


def read(model: Any) -> torch.Tensor:
    hidden: torch.Tensor = getattr(model, model.base_model_prefix)(IDS).last_hidden_state[:, 0]
    return hidden


def head(outputs: int = 3) -> nn.Linear:
    torch.manual_seed(3)
    found = nn.Linear(32, outputs)
    with torch.no_grad():
        found.bias *= 20
    return found


def apart(model: Any, wanted: nn.Linear) -> float:
    """Largest difference of the stock head's logits from `wanted`'s, beside the largest logit."""
    with torch.no_grad():
        truth = wanted(read(model))
        return float((model(IDS).logits - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize("scale", [0.01, 1.0, 20.0])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("kind", sorted(set(ENCODERS) - {"modernbert"}))
def test_every_familys_stock_head_gives_the_linear_heads_logits(kind: str, outputs: int, scale: float) -> None:
    model, wanted = classifier(kind, outputs, scale), head(outputs)
    assert apart(model, wanted) > 1e-2
    stock_heads.write_head(model, wanted)
    assert apart(model, wanted) < 3e-6


def test_a_tanh_pooler_of_deberta_is_expressed_too() -> None:
    model = classifier("deberta-v2", pooler_hidden_act="tanh")
    stock_heads.write_head(model, head())
    assert apart(model, head()) < 3e-6


def test_the_bound_of_a_layer_norm_is_never_passed_and_can_be_met() -> None:
    norm = nn.LayerNorm(16)
    with torch.no_grad():
        norm.weight.mul_(torch.linspace(-3, 2, 16))
        norm.bias.add_(torch.linspace(-1, 1, 16))
    spiked = torch.zeros(16)
    spiked[0] = 1e4
    for texts in (1e3 * torch.randn(500, 16), spiked[None], -spiked[None]):
        assert float(norm(texts).detach().abs().max()) <= stock_heads.bound(norm)
    assert float(norm(spiked[None]).detach().abs().max()) > 0.9 * stock_heads.bound(norm)


@pytest.mark.parametrize(("kind", "outputs"), [("modernbert", 3), ("electra", 17)])
def test_a_head_that_cannot_be_expressed_is_refused(kind: str, outputs: int) -> None:
    with pytest.raises(CannotMerge):
        stock_heads.write_head(classifier(kind, outputs), head(outputs))


def test_a_family_without_a_head_here_is_modernbert_alone() -> None:
    assert set(ENCODERS) - set(stock_heads.HEADS) == {"modernbert"}
