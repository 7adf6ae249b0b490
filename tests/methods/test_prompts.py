"""Prompts: where they stand, that nothing else moves, and what they add."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dpft import methods
from dpft.errors import UserError
from dpft.models.adapted import AdaptedModel
from dpft.models.architectures import architecture, block_modules
from dpft.models.classifier import Classifier
from dpft.models.prompt_slots import with_prompt_slots, without_prompt_slots
from tests import families

NAMES = {"warp": {"tokens": 3}, "jr_warp": {"dim": 7, "tokens": 3}}


def adapted(name: str, representation: str = "mask", family: str = "bert") -> AdaptedModel:
    made = methods.load(name, NAMES[name]).attach(families.classifier(family, representation), seed=3)
    made.model.to(torch.float64)
    return made


def test_room_is_made_after_the_first_token_and_the_reading_moves_along() -> None:
    of = families.batch((6, 3))
    roomy = with_prompt_slots(of, 2)
    for row in range(2):
        assert roomy.ids[row, 0] == of.ids[row, 0]
        assert roomy.ids[row, roomy.read[row]] == of.ids[row, of.read[row]]
        assert torch.equal(roomy.ids[row, 3:], of.ids[row, 1:])
        assert torch.equal(roomy.allowed[row, 3:], of.allowed[row, 1:])  # type: ignore[index]
        assert bool(roomy.allowed[row, :3].all())  # type: ignore[index]
    assert torch.equal(without_prompt_slots(roomy.ids.unsqueeze(-1), 2)[..., 0], of.ids)
    first = of.rows(slice(0, 2))
    assert torch.equal(with_prompt_slots(families.replaced(first, read=torch.zeros(2, dtype=torch.long)), 2).read,
                       torch.zeros(2, dtype=torch.long))  # fmt: skip


class Positions(torch.nn.Module):
    """An encoder that answers with each token's id: what is read can be told from the answer."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.config = backbone.config

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        hidden = input_ids.double().unsqueeze(-1).expand(-1, -1, self.config.hidden_size)
        return type("Output", (), {"last_hidden_state": hidden})


@pytest.mark.parametrize("tokens", [0, 1, 5])
@pytest.mark.parametrize("representation", ["cls", "mask", "mean"])
def test_what_is_read_is_the_same_token_with_and_without_prompts(tokens: int, representation: str) -> None:
    # The reference implementation read the class token one place off with a prompt.
    of = families.batch((9, 4, 7))
    of = of if representation == "mask" else families.replaced(of, read=torch.zeros_like(of.read))
    model = Classifier(families.stock("mpnet"), 3, representation)  # type: ignore[arg-type]
    model.backbone = Positions(model.backbone)
    bare = model.represent(of)
    model.prompts = tokens
    torch.testing.assert_close(model.represent(of), bare)
    if representation != "mean":
        assert torch.equal(bare[:, 0].long(), of.ids[torch.arange(3), of.read])


@pytest.mark.parametrize("family", families.NAMES)
def test_warp_is_the_stock_encoder_on_embeddings_with_the_prompt_between(family: str) -> None:
    # The formula, written out with inputs_embeds: first token, prompt, the rest.
    made, of = adapted("warp", "cls", family), families.batch((6, 6), typed=False)
    of = families.replaced(of, read=torch.zeros_like(of.read))
    stock = families.stock(family).double().eval()
    words = stock.get_submodule(architecture(stock.config).words)(of.ids)
    prompt = made.named["prompt"].detach().expand(2, -1, -1)
    hidden = stock(inputs_embeds=torch.cat([words[:, :1], prompt, words[:, 1:]], 1)).last_hidden_state
    torch.testing.assert_close(made.model.represent(_called(made, of)), hidden[:, 0], rtol=1e-6, atol=1e-8)


def _called(made: AdaptedModel, of: Any) -> Any:
    """What `forward` does before it reads."""
    assert made.model.before is not None
    made.model.before(torch.empty(1, 0))
    return of


def test_jr_warp_adds_w_l_z_to_the_prompts_of_every_block_and_to_nothing_else() -> None:
    made, of = adapted("jr_warp", "cls"), families.batch((6, 6))
    with torch.no_grad():
        made.named["z"] += 1
    projection = made.model.before.projection  # type: ignore[union-attr]
    shifts = (made.named["z"].detach() @ projection.weight.T).chunk(2, dim=-1)
    seen: list[tuple[Tensor, Tensor]] = []
    for block in block_modules(made.model.backbone):
        hooks = block._forward_pre_hooks
        addition = next(iter(hooks.values()))

        def watched(module: Any, args: Any, kwargs: Any, addition: Any = addition) -> Any:
            out = addition(module, args, kwargs)
            seen.append((args[0].detach(), out[0][0].detach()))
            return out

        hooks[next(iter(hooks))] = watched
    made.model(of)
    assert len(seen) == 2
    for (before, after), shift in zip(seen, shifts, strict=True):
        torch.testing.assert_close(after[:, 1:4] - before[:, 1:4], shift.expand(2, -1, -1), rtol=1e-9, atol=1e-12)
        assert torch.equal(after[:, :1], before[:, :1])
        assert torch.equal(after[:, 4:], before[:, 4:])


@pytest.mark.parametrize("name", NAMES)
def test_prompts_that_leave_no_room_for_a_text_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="tokens must be at most 20, half of this model's positions"):
        methods.load(name, {**NAMES[name], "tokens": 21}).attach(families.classifier("bert"), seed=0)
