"""The modelling file holds every method on every family: the run's logits, from plain tensors alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from dpft import Spec, methods
from dpft.data.batch import Batch
from dpft.exports import custom_code
from dpft.exports.source import ExportSource, _folded_head
from dpft.models.architectures import without_pooler
from dpft.models.architectures.encoders import ENCODERS
from dpft.models.classifier import Classifier, initialise_head
from dpft.objectives import Objective
from dpft.objectives.classification import Classification
from tests.exports.conftest import sizes

METHODS: dict[str, dict[str, Any]] = {
    "slash": {"dim": 6},
    "lora": {"rank": 2, "targets": "output"},
    "warp": {"tokens": 3},
    "jr_warp": {"dim": 8, "tokens": 2},
    "adapter": {"bottleneck": 4},
    "compacter": {"bottleneck": 8, "rank": 2},
}
MASK, SEPARATOR = 5, 6


def source(kind: str, method: str, representation: str, objective: Objective | None = None) -> Any:
    """What own_code reads of a Source, around a random model whose trained tensors are moved far."""
    torch.manual_seed(0)
    backbone = AutoModel.from_config(AutoConfig.for_model(kind, **sizes(kind, layers=3)))
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model = Classifier(without_pooler(backbone), 3, representation)
    initialise_head(model.head, 0)
    made = methods.load(method, METHODS[method])
    adapted = made.attach(model, 1)
    with torch.no_grad():
        model.center += torch.randn(32)
        model.spread *= 1.5
        for parameter in adapted.updated.values():
            parameter += 0.3 * torch.randn_like(parameter)
    trained = SimpleNamespace(adapted=adapted, tokenizer=_Tokenizer(), paired=False)
    spec = Spec(method=method, options=METHODS[method], representation=representation)
    return SimpleNamespace(
        trained=trained, head=_folded_head(model), spec=spec, labels=("a", "b", "c"),
        merged=lambda: made.merge(model), objective=objective or Classification(),
    )  # fmt: skip


class _Tokenizer:
    """Ids: a text, the mask, the separator."""

    mask_token_id = MASK
    model_input_names = ("input_ids",)

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [4, 10, SEPARATOR] if add_special_tokens else [10]}


def batch() -> Batch:
    lengths = torch.tensor([11, 7, 4])
    allowed = torch.arange(11) < lengths[:, None]
    ids = torch.where(allowed, torch.randint(10, 60, (3, 11), generator=torch.Generator().manual_seed(2)), 1)
    ids[:, 0] = 4
    rows = torch.arange(3)
    ids[rows, lengths - 2], ids[rows, lengths - 1] = MASK, SEPARATOR
    return Batch(ids, allowed, None, lengths - 2, torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("method", METHODS)
def test_own_code_gives_the_runs_logits(kind: str, method: str) -> None:
    for representation in ("mask", "cls", "mean"):
        of, rows = source(kind, method, representation), batch()
        if representation != "mask":
            rows = Batch(rows.ids, rows.allowed, None, torch.zeros(3, dtype=torch.long), rows.labels)
        own = custom_code.model(of)
        with torch.no_grad():
            wanted = of.trained.adapted.model(rows).numpy()
            found = own(rows.ids, rows.allowed.long()).logits.numpy()
        assert np.abs(wanted[0] - wanted[1]).max() > 1e-3
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max(), err_msg=representation)


def test_a_pairs_mask_is_the_first_that_a_separator_follows() -> None:
    # Texts may quote the mask token: in the first text without a separator behind it, in the second at its end.
    own = custom_code.model(source("bert", "slash", "mask"))
    own.config.paired = True
    ids = torch.tensor([[4, MASK, 20, MASK, SEPARATOR, 30, MASK, SEPARATOR, 1]])
    places = torch.arange(9.0)[None, :, None].expand(1, 9, 32)
    assert own._read(places, ids, torch.ones_like(ids))[0, 0] == 3
    own.config.paired = False
    assert own._read(places, ids, torch.ones_like(ids))[0, 0] == 6


def test_labels_give_a_loss_for_further_training() -> None:
    own = custom_code.model(source("bert", "slash", "mean"))
    rows = batch()
    out = own(rows.ids, rows.allowed.long(), labels=torch.tensor([0, 1, 2]))
    expected = torch.nn.functional.cross_entropy(out.logits, torch.tensor([0, 1, 2]))
    assert torch.equal(out.loss, expected)
    out.loss.backward()
    assert own.head.weight.grad is not None


def test_a_source_has_what_the_stand_in_has() -> None:
    fields = set(ExportSource.__dataclass_fields__) | {n for n in vars(ExportSource) if not n.startswith("_")}
    assert set(vars(source("bert", "slash", "cls"))) <= fields
