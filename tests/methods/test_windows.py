"""A text in windows contributes one clipped gradient, that of its own mean loss, whatever else is in the batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from dpft import methods, objectives
from dpft.data.documents import Documents
from dpft.data.encoded import Encoded
from dpft.data.examples import Examples
from dpft.models.adapted import AdaptedModel
from dpft.privacy.mechanism.clipping import Ghost, Hooks, Single
from dpft.spec import Spec
from dpft.tokens.encode import encode
from dpft.tokens.microbatch import collate, microbatches
from tests import decoders

CLIP = 0.05
TEXTS = ["a film", "the story is not very good, it is boring and the cast is dull " * 3, "b", "it is so warm " * 8]
UNITS = [0, 1, 1, 0]
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


@pytest.fixture(scope="module")
def tokenizer(tiny_roberta: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_roberta)


def encoded(tokenizer: Any, units: list[int] | None) -> Encoded:
    found = None if units is None else np.array(units)
    rows = Examples(TEXTS, None, np.zeros(len(TEXTS), np.int64), found, documents=Documents(windows=50))
    data = encode(rows, tokenizer, "none", 16)
    assert len(data) > len(TEXTS) + 4
    return data


def adapted(tokenizer: Any, kind: Any, name: str = "lora") -> AdaptedModel:
    model = decoders.language_model("llama", vocab_size=len(tokenizer))
    made = methods.load(name, {}).attach(model, seed=0)
    made.model.double().per_example = True
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.private:
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator).double()
    objective = objectives.load("language-model").configured(Spec(token_loss=kind))
    return dataclasses.replace(made, objective=objective)


def by_definition(made: AdaptedModel, data: Encoded, units: list[int], kind: str) -> list[Tensor]:
    """One unit at a time: add its texts' losses, each over all its windows' judged tokens, clip the gradient, add."""
    total = [torch.zeros_like(p) for p in made.private]
    for unit in range(max(units) + 1):
        loss = torch.zeros((), dtype=torch.float64)
        for text in (at for at, own in enumerate(units) if own == unit):
            assert data.owners is not None
            windows = np.flatnonzero(data.owners == text)
            parts = torch.cat([made.model(collate(data, windows[at : at + 1])) for at in range(len(windows))])
            loss = loss + parts[:, 0].sum() / (parts[:, 1].sum().detach() if kind == "mean" else 1)
        gradients = torch.autograd.grad(loss, list(made.private))
        norm = torch.sqrt(sum(g.square().sum() for g in gradients))  # type: ignore[arg-type]
        assert norm > CLIP
        for whole, gradient in zip(total, gradients, strict=True):
            whole += gradient * (CLIP / norm)
    return total


@pytest.mark.parametrize("tokens", [1, 64, 10_000])
@pytest.mark.parametrize("kind", ["mean", "sum"])
@pytest.mark.parametrize("clipper", [Hooks, Single])
@pytest.mark.parametrize("units", [None, UNITS], ids=["each text", "units"])
def test_the_clipped_sum_is_that_of_whole_texts(
    tokenizer: Any, units: list[int] | None, clipper: Any, kind: str, tokens: int
) -> None:
    """Injected bugs: windows clipped one by one (a text moves the sum by several norms); a window packed into another
    unit; each window's own mean in place of its text's."""
    data, made = encoded(tokenizer, units), adapted(tokenizer, kind)
    wanted = by_definition(made, data, [*range(len(TEXTS))] if units is None else units, kind)
    clip = clipper(made, CLIP)
    total = [torch.zeros_like(p) for p in made.private]
    for batch in microbatches(data, np.arange(data.unit_count), tokens):
        for whole, part in zip(total, clip(batch), strict=True):
            whole += part
    clip.close()
    for found, expected in zip(total, wanted, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("unit", range(4))
def test_one_text_moves_the_sum_by_the_clipping_norm_at_most(tokenizer: Any, unit: int) -> None:
    """Injected bug: windows that are units of their own, which add up to several norms."""
    data, made = encoded(tokenizer, None), adapted(tokenizer, "sum")
    clip = Hooks(made, CLIP)
    (batch,) = microbatches(data, np.array([unit]), 10_000)
    moved = torch.sqrt(sum(part.double().square().sum() for part in clip(batch)))  # type: ignore[arg-type]
    clip.close()
    assert moved <= CLIP * (1 + 1e-6)


def test_ghost_norms_refuse_windows(tokenizer: Any) -> None:
    """Injected bug: norms of windows for norms of texts."""
    data, made = encoded(tokenizer, None), adapted(tokenizer, "mean", "full")
    (batch,) = microbatches(data, np.array([1]), 10_000)
    clip = Ghost(made, CLIP)
    with pytest.raises(RuntimeError, match="rows that are clipped together"):
        clip(batch)
    clip.close()
