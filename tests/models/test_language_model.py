"""The language model: its outputs are the stock model's, and what it writes is what the stock model would write."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dpft import methods
from dpft.data.batch import Batch
from dpft.errors import UserError
from dpft.models import language_model
from dpft.models.architectures import longest
from dpft.models.language_model import LanguageModel
from tests import decoders, families

PROMPTS: dict[str, dict[str, Any]] = {"warp": {"tokens": 3}, "jr_warp": {"dim": 7, "tokens": 2}}
GREEDY = {"do_sample": False, "max_new_tokens": 6}
every = pytest.mark.parametrize("family", decoders.NAMES)
few = pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2"])


def adapted(family: str, name: str) -> LanguageModel:
    """The method inside, moved far enough that it changes what is written."""
    model = decoders.language_model(family)
    options = PROMPTS.get(name, {"rank": 2} if name == "lora" else {"dim": 7})
    made = methods.load(name, options).attach(model, seed=3)
    with torch.no_grad():
        for parameter in made.private:
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5))
    return model


def stock_outputs(causal: Any, of: Batch) -> Tensor:
    """(B, 2) by the definition, from whole logits."""
    mask = None if of.allowed is None else of.allowed.long()
    found = -torch.log_softmax(causal(input_ids=of.ids, attention_mask=mask).logits.double(), -1)
    each = found.gather(2, of.labels.clamp(min=0).unsqueeze(2))[..., 0] * (of.labels >= 0)
    return torch.stack([each.sum(1), (of.labels >= 0).sum(1)], 1)


@every
def test_outputs_are_the_stock_models_log_probabilities_and_counts(family: str) -> None:
    model, of = decoders.language_model(family), decoders.batch(bare=1)
    found = model(of)
    assert found.dtype == torch.float32
    assert model.output_count == 2
    torch.testing.assert_close(found.double(), stock_outputs(decoders.causal(family).eval(), of), rtol=1e-4, atol=1e-4)


@every
def test_neither_padding_nor_its_side_nor_mates_change_a_rows_outputs(family: str) -> None:
    # Catches positions counted from padding, and a mask that lets a token see it.
    model, of = decoders.language_model(family).double(), decoders.batch()
    found = model(of)
    torch.testing.assert_close(model(decoders.on_the_left(of)), found, rtol=1e-7, atol=1e-9)
    for row in range(len(of)):
        torch.testing.assert_close(model(families.alone(of, row))[0], found[row], rtol=1e-6, atol=1e-8)


@every
def test_stock_is_the_model_that_was_loaded(family: str) -> None:
    before = decoders.causal(family)
    after = LanguageModel(decoders.causal(family)).stock()
    wanted, found = before.state_dict(), after.state_dict()
    assert list(wanted) == list(found)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert [type(m) for m in before.modules()] == [type(m) for m in after.modules()]


@every
def test_no_module_has_two_parents(family: str) -> None:
    # Catches a backbone registered beside the causal model: Opacus counts its gradients twice.
    model = decoders.language_model(family)
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    assert len(names) == len({id(m) for _, m in model.named_modules(remove_duplicate=False)})


@pytest.mark.parametrize("name", PROMPTS)
@every
def test_what_follows_the_first_token_is_told_by_the_last_slot(family: str, name: str) -> None:
    """The stock decoder by hand on the widened row: labels keep their tokens, and slots judge nothing."""
    model, of = adapted(family, name).double(), decoders.batch((7,))
    of = families.replaced(of, labels=torch.cat([of.ids[:, 1:], torch.tensor([[-100]])], 1))  # the first word too
    found = model(of).detach()
    places = model.prompts
    ids = torch.cat([of.ids[:, :1].expand(-1, places + 1), of.ids[:, 1:]], 1)
    logits = model.causal(input_ids=ids).logits[0, places:]
    wanted = -torch.log_softmax(logits[:-1], -1).gather(1, of.ids[0, 1:].unsqueeze(1)).sum()
    torch.testing.assert_close(found[0, 0], wanted)
    assert float(found[0, 1]) == 6


@pytest.mark.parametrize("name", ["warp", "jr_warp", "lora", "slash"])
@every
def test_greedy_writing_with_a_cache_is_the_most_probable_token_each_time(family: str, name: str) -> None:
    # Catches slots that are put in again at each step of decoding, or in the padding of shorter rows.
    model = adapted(family, name)
    ids = decoders.batch((5, 5, 5, 5)).ids
    allowed = torch.arange(5) >= 5 - torch.tensor([5, 2, 1, 4])[:, None]
    ids = torch.where(allowed, ids, decoders.PADDING)
    first = allowed.int().argmax(1)
    ids[torch.arange(4), first] = decoders.FIRST
    found = model.generate(ids, allowed, **GREEDY, eos_token_id=None)
    assert found.shape == (4, 6)
    for row in range(4):
        text = ids[row : row + 1, first[row] :]
        for at in range(6):
            widened = torch.cat([text[:, :1].expand(-1, model.prompts + 1), text[:, 1:]], 1)
            with torch.no_grad():
                logits = model.causal(input_ids=widened, use_cache=False).logits[0, -1]
            # In float32 two words may be as probable as each other.
            assert float(logits.max() - logits[found[row, at]]) < 1e-3, (row, at)
            text = torch.cat([text, found[row : row + 1, at : at + 1]], 1)


@few
def test_a_row_ends_with_its_end_token_and_is_padded_after_it(family: str) -> None:
    model = adapted(family, "warp")
    ids, allowed = decoders.batch((4, 4)).ids, torch.tensor([[True] * 4, [False, False, False, True]])
    free = model.generate(ids, allowed, **GREEDY, eos_token_id=None)
    end = int(free[0, 2])
    found = model.generate(ids, allowed, **GREEDY, eos_token_id=end)
    at = int((found[0] == end).int().argmax())
    assert torch.equal(found[0, : at + 1], free[0, : at + 1])
    assert bool((found[0, at + 1 :] == decoders.PADDING).all())


def test_rows_padded_on_the_right_are_no_rows_to_write_on() -> None:
    with pytest.raises(UserError, match="padded on the left"):
        decoders.language_model("llama").generate(torch.ones(1, 3).long(), torch.tensor([[True, True, False]]))


def test_the_longest_row_is_what_the_positions_allow() -> None:
    for family in decoders.NAMES:
        assert longest(decoders.language_model(family).backbone) == decoders.SMALL["max_position_embeddings"]
    for family in ("gpt2", "opt"):
        model = decoders.language_model(family)
        assert bool(torch.isfinite(model(decoders.batch((48,)))).all())
        with pytest.raises(IndexError):
            model(decoders.batch((49,)))


def test_what_noise_must_not_move_are_final_hidden_states_at_judged_positions() -> None:
    model, of = decoders.language_model("llama"), decoders.batch(bare=1)
    bare = model.read_for_drift(of)
    judged = of.labels >= 0
    assert bare.shape == (int(judged.sum()), 16)
    torch.testing.assert_close(bare, model.causal.model(of.ids).last_hidden_state[judged], rtol=1e-4, atol=1e-5)
    model.standardise([of])
    found = model.read_for_drift(of)
    torch.testing.assert_close(found.square().sum(1).mean(), torch.tensor(1.0))
    torch.testing.assert_close(found.mean(0), torch.zeros(16), rtol=0, atol=1e-5)


def test_logits_of_a_batch_never_exist() -> None:
    from tests.models.test_chunked_loss import Largest

    model, of = decoders.language_model("llama", vocab_size=4096), decoders.batch((20,) * 8)
    made = methods.load("lora", {"rank": 2}).attach(model, 0)
    right = LanguageModel.head

    def cut(self: LanguageModel) -> language_model.FrozenHead:
        head = right.fget(self)  # type: ignore[attr-defined]
        return language_model.FrozenHead(head.weight, head.bias, head.cap, chunk=8)

    with pytest.MonkeyPatch.context() as patch, Largest() as seen:
        patch.setattr(LanguageModel, "head", property(cut))
        decoders.Mean().losses(made.model(of), of.labels).sum().backward()
    assert seen.most <= 4096 * 16  # the table itself; all logits are 8 * 20 * 4096
