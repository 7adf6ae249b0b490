"""The contract for tasks that label words: the head reads every token, and an example's loss is the mean of its own."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dpft import methods
from dpft.data.batch import Batch
from dpft.models import classifier
from dpft.models.adapted import AdaptedModel, CannotMerge
from dpft.models.classifier import Classifier
from dpft.models.prompt_slots import with_prompt_slots
from dpft.objectives.tagging import Tagging
from dpft.privacy.mechanism.clipping import Single
from tests import families
from tests.methods import test_contract as contract

CLIP, OPTIONS, BARE = contract.CLIP, contract.OPTIONS, 1
PROMPTS = ("warp", "jr_warp")
SUBSET = [("bert", name) for name in OPTIONS]
ALL = [*SUBSET, *((family, name) for family in families.NAMES[1:] for name in ("slash", "jr_warp"))]
ALL += [
    ("deberta-v2", "lora"),
    ("albert", "full"),
    ("modernbert", "full"),
    ("mpnet", "warp"),
    ("distilbert", "adapter"),
]
each = pytest.mark.parametrize(("family", "name"), ALL)
some = pytest.mark.parametrize(("family", "name"), SUBSET)
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


def adapted(family: str, name: str, dtype: torch.dtype = torch.float64) -> AdaptedModel:
    return dataclasses.replace(contract.adapted(family, name, OPTIONS[name], "token", dtype), objective=Tagging())


def batch() -> Batch:
    return families.words(families.batch(), bare=BARE)


def loss_alone(outputs: Tensor, labels: Tensor) -> Tensor:
    """By the definition: minus the mean of the log-probabilities of one example's labels. (1, T, C), (1, T) -> ()"""
    terms = [
        outputs[0, at, int(label)] - torch.logsumexp(outputs[0, at], 0)
        for at, label in enumerate(labels[0])
        if label >= 0
    ]
    return -sum(terms, outputs.sum() * 0) / max(1, len(terms))


def oracle(made: AdaptedModel, of: Batch, clip: float = CLIP) -> list[Tensor]:
    """One example at a time, without padding and mates: its loss by the definition, norm over all, clip, add."""
    total = [torch.zeros_like(p, dtype=torch.float64) for p in made.private]
    made.model.per_example = False
    for row in range(len(of)):
        one = families.alone(of, row)
        gradients = torch.autograd.grad(loss_alone(made.model(one), one.labels), list(made.private))
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        for whole, g in zip(total, gradients, strict=True):
            whole += g.double() * (min(1.0, clip / norm) if norm else 0.0)
    made.model.per_example = True
    return total


@each
def test_the_clipped_sum_is_that_of_gradients_taken_one_at_a_time(family: str, name: str) -> None:
    made, of = adapted(family, name), batch()
    wanted, within = oracle(made, of), contract.WITHIN.get(family, 1e-9)
    contract.assert_equal(contract.sum_of(made, [of]), wanted, within)
    contract.assert_equal(contract.sum_of(made, [families.alone(of, row) for row in range(len(of))]), wanted, within)
    contract.assert_equal(contract.sum_of(made, [of.rows(slice(0, 2)), of.rows(slice(2, 5))]), wanted, within)


@some
def test_one_at_a_time_agrees_with_the_methods_own_way(family: str, name: str) -> None:
    made, of = adapted(family, name), batch()
    contract.assert_equal([t.double() for t in Single(made, CLIP)(of)], contract.sum_of(made, [of]), 1e-9)


@some
def test_an_example_without_labels_has_no_loss_and_adds_nothing(family: str, name: str) -> None:
    made, of = adapted(family, name), batch()
    assert float(made.losses(made.model(of), of)[BARE].detach()) == 0
    assert all(bool((t == 0).all()) for t in contract.sum_of(made, [of.rows(slice(BARE, BARE + 1))]))


@some
@pytest.mark.parametrize("rows", [5, 1, 0])
def test_a_private_step_moves_what_is_updated_and_nothing_else(family: str, name: str, rows: int) -> None:
    made = adapted(family, name, torch.float32)
    before = contract.tensors(made.model)
    contract.step(made, [batch().rows(slice(0, rows))] if rows else [])
    moved = {id(p) for p in made.updated.values()}
    free = moved | ({id(p) for p in made.private} if name == "rgp" else set())
    of = dict((*made.model.named_parameters(), *made.model.named_buffers()))
    assert {n for n, t in of.items() if not torch.equal(t, before[n]) and id(t) not in free} == set()
    assert [n for n, t in of.items() if id(t) in moved and torch.equal(t, before[n])] == []


@some
def test_merged_or_saved_and_loaded_it_gives_the_same_logits(family: str, name: str) -> None:
    made, of = adapted(family, name), batch()
    method, logits = methods.load(name, OPTIONS[name]), made.model(of)
    fresh = method.attach(families.classifier(family, "token"), seed=3)
    fresh.model.double()
    fresh.load(made.state())
    torch.testing.assert_close(fresh.model(of), logits, rtol=1e-9, atol=1e-9)
    if name not in contract.MERGED:
        with pytest.raises(CannotMerge):
            method.merge(made.model)
        return
    bare = Classifier(method.merge(made.model).double(), 3, "token").double()
    bare.head, bare.center, bare.spread = made.model.head, made.model.center, made.model.spread
    torch.testing.assert_close(bare(of), logits, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("family", families.NAMES)
@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_do_not_shift_what_is_read_of_each_token(family: str, name: str) -> None:
    """The stock encoder is run by hand on the widened row, and the prompts' own outputs are struck out by number."""
    made, of = adapted(family, name), families.alone(batch(), 0)
    places = made.model.prompts
    logits = made.model(of)  # the prompts are in their places from here on
    with torch.no_grad():
        hidden = made.model.backbone(**made.model._inputs(with_prompt_slots(of, places))).last_hidden_state[0]
        rows = [hidden[0], *hidden[places + 1 :]]
        wanted = torch.stack([made.model.head((row - made.model.center) * made.model.spread) for row in rows])
    assert logits.shape == (1, of.ids.shape[1], 3)
    torch.testing.assert_close(logits[0], wanted)


@pytest.mark.parametrize("family", families.NAMES)
def test_padding_and_mates_do_not_change_a_tokens_reading(family: str) -> None:
    made, of = adapted(family, "slash"), batch()
    made.model.per_example = False
    logits = made.model(of)
    for row in range(len(of)):
        one = families.alone(of, row)
        torch.testing.assert_close(logits[row, : one.ids.shape[1]], made.model(one)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["ia3", "vera"])
def test_tuners_of_peft_find_their_way_to_gradients_of_words(kind: str) -> None:
    pytest.importorskip("peft")
    model = families.classifier("bert", "token")
    method = methods.load(
        "peft", {"type": kind, "target_modules": "query,value", **({"r": 2} if kind == "vera" else {})}
    )
    made = dataclasses.replace(method.attach(model, 3), objective=Tagging())
    made.model.double().per_example = True
    with torch.no_grad():
        for parameter in made.private:
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)).double()
    contract.assert_equal(contract.sum_of(made, [batch()]), oracle(made, batch()), 1e-6)


# Injected bugs: each must be seen by the comparison with gradients taken one at a time.


def _coupled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over the batch's words instead of the example's own: one person's loss depends on the others'."""
    right = Tagging.losses

    def wrong(self: Tagging, outputs: Tensor, labels: Tensor) -> Tensor:
        counts = (labels >= 0).sum(1)
        return right(self, outputs, labels) * counts / counts.sum().clamp(min=1) * len(counts)

    monkeypatch.setattr(Tagging, "losses", wrong)


def _padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that have no label count as outside: padding, and so the mates' lengths, would enter the loss."""
    right = Tagging.losses
    monkeypatch.setattr(Tagging, "losses", lambda self, outputs, labels: right(self, outputs, labels.clamp(min=0)))


def _shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompts' own places are read as the first words, as the reference implementation does by one."""
    monkeypatch.setattr(
        classifier, "without_prompt_slots", lambda hidden, places: hidden[:, : hidden.shape[1] - places]
    )


@pytest.mark.parametrize(("bug", "name"), [(_coupled, "slash"), (_padded, "slash"), (_coupled, "full")])
def test_an_injected_bug_turns_the_contract_red(bug: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, of, far = adapted("bert", name), batch(), 1e3  # nothing is clipped: a factor on a gradient shows
    wanted = oracle(made, of, far)
    contract.assert_equal(contract.sum_of(made, [of], far), wanted, 1e-9)
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        contract.assert_equal(contract.sum_of(made, [of], far), wanted, 1e-9)


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_that_shift_the_readings_turn_the_contract_red(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _shifted(monkeypatch)
    with pytest.raises(AssertionError):
        test_prompts_do_not_shift_what_is_read_of_each_token("bert", name)


def test_one_huge_gradient_is_cut_to_the_clip() -> None:
    for name in OPTIONS:
        made, of = adapted("bert", name), families.words(families.batch((6,)))
        with torch.no_grad():
            made.model.head.weight.mul_(1e4)
            worst = made.model(of).argmin(2)
            of = dataclasses.replace(of, labels=torch.where(of.labels >= 0, worst, -100))
        found = contract.sum_of(made, [of])
        norm = math.sqrt(sum(float((f**2).sum()) for f in found))
        assert CLIP * 0.99 < norm <= CLIP * (1 + 1e-6)
