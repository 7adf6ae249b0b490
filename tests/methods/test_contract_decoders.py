"""The contract for models that write: exact clipped sums on every decoder, and nothing touched but what is named."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dpft import methods
from dpft.data.batch import Batch
from dpft.errors import UserError
from dpft.models import language_model
from dpft.models.adapted import AdaptedModel, CannotMerge
from dpft.models.language_model import LanguageModel
from dpft.privacy.mechanism.clipping import Ghost, Hooks, Single
from tests import decoders, families
from tests.methods import test_contract as contract

CLIP, BARE = contract.CLIP, 1
OPTIONS = {name: options for name, options in contract.OPTIONS.items() if name != "linear"}
ALL = [(family, name) for family in decoders.NAMES for name in OPTIONS]
SOME = [("llama", name) for name in OPTIONS] + [("gpt2", "full"), ("opt", "lora"), ("opt", "slash"), ("gemma2", "full")]
MERGED = contract.MERGED
# The stock class has a place for the bias of the feed-forward's output.
BIASED = {"llama", "smollm3", "gpt2", "gpt_neox", "opt"}
# Gemma's norms, and all rotary positions, are computed in float32 whatever the model's precision.
WITHIN = 1e-6
each = pytest.mark.parametrize(("family", "name"), ALL)
some = pytest.mark.parametrize(("family", "name"), SOME)
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


def adapted(
    family: str, name: str, dtype: torch.dtype = torch.float64, options: dict[str, Any] | None = None, **changes: Any
) -> AdaptedModel:
    """A model with the method inside, in the middle of training: nothing is at its start any more."""
    model = decoders.language_model(family, **changes)
    made = methods.load(name, OPTIONS[name] if options is None else options).attach(model, seed=3)
    made.model.to(dtype).per_example = True
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in {id(p): p for p in (*made.private, *made.updated.values())}.values():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator).to(dtype)
    made.begin(0)
    return dataclasses.replace(made, objective=decoders.Mean())  # type: ignore[arg-type]


def batch() -> Batch:
    return decoders.batch(bare=BARE)


def loss_alone(made: AdaptedModel, one: Batch) -> Tensor:
    """By the definition, on the stock model's whole logits where the method puts no tokens in: (1, T) -> ()"""
    model = made.model
    assert isinstance(model, LanguageModel)
    if model.prompts:
        return made.losses(model(one), one).sum()
    model.call_before(one)
    logits = model.causal(input_ids=one.ids).logits[0]
    terms = [-torch.log_softmax(logits[at], 0)[label] for at, label in enumerate(one.labels[0]) if label >= 0]
    return sum(terms, logits.sum() * 0) / max(1, len(terms))


def oracle(made: AdaptedModel, of: Batch, clip: float = CLIP) -> list[Tensor]:
    """One example at a time, without padding and mates: its loss by the definition, norm over all, clip, add."""
    total = [torch.zeros_like(p, dtype=torch.float64) for p in made.private]
    made.model.per_example = False
    for row in range(len(of)):
        gradients = torch.autograd.grad(loss_alone(made, families.alone(of, row)), list(made.private))
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        for whole, g in zip(total, gradients, strict=True):
            whole += g.double() * (min(1.0, clip / norm) if norm else 0.0)
    made.model.per_example = True
    return total


@each
def test_the_clipped_sum_is_that_of_gradients_taken_one_at_a_time(family: str, name: str) -> None:
    made, of = adapted(family, name), batch()
    wanted = oracle(made, of)
    contract.assert_equal(contract.sum_of(made, [of]), wanted, WITHIN)
    # Micro-batches of one, other mates, and padding on the other side.
    contract.assert_equal(contract.sum_of(made, [families.alone(of, row) for row in range(len(of))]), wanted, WITHIN)
    contract.assert_equal(contract.sum_of(made, [of.rows(slice(0, 2)), of.rows(slice(2, 5))]), wanted, WITHIN)
    contract.assert_equal(contract.sum_of(made, [decoders.on_the_left(of)]), wanted, WITHIN)


@some
def test_micro_batches_of_one_seven_and_all_give_one_sum(family: str, name: str) -> None:
    made, of = adapted(family, name), decoders.batch(tuple(range(3, 14)))
    whole = contract.sum_of(made, [of])
    for size in (1, 7):
        parts = [of.rows(slice(at, at + size)) for at in range(0, len(of), size)]
        contract.assert_equal(contract.sum_of(made, parts), whole, WITHIN)


@some
def test_ghost_clipping_and_one_at_a_time_equal_explicit_clipping(family: str, name: str) -> None:
    made, of = adapted(family, name), batch()
    ways: list[Any] = [Single, Hooks, *([] if name in ("compacter", "rgp") else [Ghost])]
    sums = []
    for kind in ways:
        one = kind(made, CLIP)
        sums.append([t.double() for t in one(of)])
        one.close()
    for other in sums[1:]:
        contract.assert_equal(other, sums[0], WITHIN)


@some
def test_a_row_without_judged_tokens_has_no_loss_and_adds_nothing(family: str, name: str) -> None:
    made, of = adapted(family, name), batch()
    assert float(made.losses(made.model(of), of)[BARE].detach()) == 0
    assert all(bool((t == 0).all()) for t in contract.sum_of(made, [of.rows(slice(BARE, BARE + 1))]))


@each
def test_only_private_requires_grad_and_is_as_much_as_was_said(family: str, name: str) -> None:
    made = adapted(family, name)
    assert {id(p) for p in made.model.parameters() if p.requires_grad} == {id(p) for p in made.private}
    assert not any(key.startswith("head.") for key in made.state())
    counted = sum(p.numel() for p in made.private)
    assert methods.load(name, OPTIONS[name]).trainable(decoders.config(family), 0) == counted


@some
@pytest.mark.parametrize("rows", [5, 1, 0])
def test_a_private_step_moves_what_is_updated_and_nothing_else(family: str, name: str, rows: int) -> None:
    made = adapted(family, name, torch.float32)
    before = contract.tensors(made.model)  # type: ignore[arg-type]
    contract.step(made, [decoders.batch().rows(slice(0, rows))] if rows else [])
    moved = {id(p) for p in made.updated.values()}
    free = moved | ({id(p) for p in made.private} if name == "rgp" else set())
    of = dict((*made.model.named_parameters(), *made.model.named_buffers()))
    assert {n for n, t in of.items() if not torch.equal(t, before[n]) and id(t) not in free} == set()
    assert [n for n, t in of.items() if id(t) in moved and torch.equal(t, before[n])] == []


@each
def test_merged_or_saved_and_loaded_it_gives_the_same_outputs(family: str, name: str) -> None:
    made, of = adapted(family, name), batch()
    method, outputs = methods.load(name, OPTIONS[name]), made.model(of)
    fresh = method.attach(decoders.language_model(family), seed=3)
    fresh.model.double()
    fresh.load(made.state())
    torch.testing.assert_close(fresh.model(of), outputs, rtol=1e-6, atol=1e-6)
    if name not in MERGED or (name == "slash" and family not in BIASED):
        with pytest.raises(CannotMerge):
            method.merge(made.model)
        return
    merged = method.merge(made.model)
    stock = decoders.causal(family)
    assert type(merged) is type(stock)
    assert {type(m).__module__.partition(".")[0] for m in merged.modules()} <= {"torch", "transformers"}
    # An equal stock model made from the config takes the merged weights: nothing else is in them.
    again = type(stock)(merged.config)
    again.load_state_dict(merged.state_dict())
    assert of.allowed is not None
    logits = again.double().eval()(input_ids=of.ids, attention_mask=of.allowed.long()).logits
    found = -torch.log_softmax(logits, -1).gather(2, of.labels.clamp(min=0).unsqueeze(2))[..., 0]
    torch.testing.assert_close((found * (of.labels >= 0)).sum(1), outputs[:, 0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(made.model(of), outputs, rtol=0, atol=0)  # the original is as it was


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "olmo2", "smollm3", "gpt2"])
def test_a_shift_of_the_attention_is_merged_where_the_class_has_biases_there(family: str) -> None:
    options = {"dim": 7, "init": "normal", "position": "attention"}
    made, of = adapted(family, "slash", options=options), decoders.batch((6, 6))
    merged: Any = methods.load("slash", options).merge(made.model)
    stock: Any = LanguageModel(type(merged)(merged.config))
    stock.causal.load_state_dict(language_model.adaptable(merged).state_dict())
    torch.testing.assert_close(stock.double()(of), made.model(of), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in OPTIONS if n != "full"])
def test_a_bfloat16_decoder_keeps_float32_gradients_near_the_exact_ones(name: str) -> None:
    made, of = adapted("llama", name, torch.float32), decoders.batch()
    wanted = oracle(made, of)
    trained = {id(p) for p in (*made.private, *made.updated.values())}
    for parameter in made.model.parameters():
        if id(parameter) not in trained:
            parameter.data = parameter.data.bfloat16()
    made.begin(0)
    found = contract.sum_of(made, [of])
    assert all(f.shape == p.shape and p.dtype == torch.float32 for f, p in zip(found, made.private, strict=True))
    whole = math.sqrt(sum(float((w**2).sum()) for w in wanted))
    assert math.sqrt(sum(float(((f - w) ** 2).sum()) for f, w in zip(found, wanted, strict=True))) < 0.15 * whole


def test_one_huge_gradient_is_cut_to_the_clip() -> None:
    for name in OPTIONS:
        made, of = adapted("llama", name), decoders.batch((6,))
        with torch.no_grad():
            made.model.causal.lm_head.weight.mul_(1e5)
        found = contract.sum_of(made, [of])
        norm = math.sqrt(sum(float((f**2).sum()) for f in found))
        assert CLIP * 0.99 < norm <= CLIP * (1 + 1e-6), name


def test_a_tied_table_is_left_as_it_is_and_one_of_its_own_is_trained() -> None:
    tied, free = (adapted("llama", "full", tie_word_embeddings=tie) for tie in (True, False))
    assert set(free.named) - set(tied.named) == {"embed_tokens.weight"}
    contract.assert_equal(contract.sum_of(tied, [batch()]), oracle(tied, batch()), WITHIN)


def test_all_targets_are_the_dense_layers_that_a_block_has() -> None:
    for family, count in (("llama", 7), ("gpt2", 4), ("opt", 6), ("phi3", 4)):
        made = adapted(family, "lora", options={"rank": 2, "targets": "all"})
        assert len(made.named) == 2 * 2 * count
        contract.assert_equal(contract.sum_of(made, [batch()]), oracle(made, batch()), WITHIN)
    with pytest.raises(UserError, match="has no dense layer gate of its own"):
        methods.load("lora", {"targets": "gate"}).attach(decoders.language_model("gpt2"), 0)


def test_bitfit_takes_biases_where_there_are_some_and_else_norms() -> None:
    assert all("norm" in name for name in adapted("llama", "bitfit").named)
    assert {name.rpartition(".")[2] for name in adapted("qwen2", "bitfit").named} == {"q_proj", "k_proj", "v_proj"}
    assert len(adapted("gpt2", "bitfit").named) == 2 * 6 + 1
    assert "norms" in methods.describe("bitfit")["details"]


def test_a_language_model_has_no_head_for_linear() -> None:
    for refused in (
        lambda: methods.load("linear", {}).attach(decoders.language_model("llama"), 0),
        lambda: methods.load("linear", {}).trainable(decoders.config("llama"), 0),
    ):
        with pytest.raises(UserError, match="linear trains a head, got the language model llama, which has none"):
            refused()


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {"type": "ia3"}),
        ("gpt2", {"type": "lora", "r": "2"}),
        ("llama", {"type": "vera", "r": "2", "target_modules": "q_proj,o_proj"}),
        ("gemma2", {"type": "lora", "r": "2"}),
        ("opt", {"type": "lora", "r": "2", "target_modules": "fc1,q_proj"}),
    ],
    ids=lambda v: v if isinstance(v, str) else v["type"],
)
def test_tuners_of_peft_find_their_way_on_decoders(family: str, options: dict[str, Any]) -> None:
    pytest.importorskip("peft")
    made, of = adapted(family, "peft", options=options), batch()
    contract.assert_equal(contract.sum_of(made, [of]), oracle(made, of), WITHIN)
    merged = methods.load("peft", options).merge(made.model)
    assert {type(m).__module__.partition(".")[0] for m in merged.modules()} <= {"torch", "transformers"}
    again = LanguageModel(merged)
    torch.testing.assert_close(again(of), made.model(of), rtol=1e-6, atol=1e-6)
    counted = sum(p.numel() for p in made.private)
    assert methods.load("peft", options).trainable(decoders.config(family), 0) == counted


# Injected bugs: each must be seen by the comparison with gradients taken one at a time.


def _shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token's loss is that of the token itself instead of the one that follows."""
    right = language_model.surprise
    monkeypatch.setattr(language_model, "surprise", lambda hidden, labels, head: right(hidden, labels.roll(1, 1), head))


def _padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding on the left is taken for text, and shifts every position."""
    monkeypatch.setattr(language_model, "_from_the_left", lambda of: of)


def _coupled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over the batch's tokens instead of the row's own: one person's loss depends on the others'."""

    def wrong(self: Any, outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs[:, 0] / outputs[:, 1].sum() * len(outputs)

    monkeypatch.setattr(decoders.Mean, "losses", wrong)


@pytest.mark.parametrize("name", ["lora", "full"])
@pytest.mark.parametrize("bug", [_shifted, _padded, _coupled], ids=lambda b: b.__name__.strip("_"))
def test_an_injected_bug_turns_the_contract_red(bug: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, of, far = adapted("gpt2", name), decoders.on_the_left(batch()), 1e3  # nothing is clipped: a factor shows
    wanted = oracle(made, batch(), far)
    contract.assert_equal(contract.sum_of(made, [of], far), wanted, WITHIN)
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        contract.assert_equal(contract.sum_of(made, [of], far), wanted, WITHIN)
