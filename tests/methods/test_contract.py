"""One contract for every method on every architecture: exact clipped sums, and nothing touched but what is named."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpft import methods
from dpft.data.batch import Batch
from dpft.models.adapted import AdaptedModel, CannotMerge
from dpft.models.architectures import architecture
from dpft.models.classifier import Classifier
from dpft.privacy.mechanism import clipping, grad_samplers
from dpft.privacy.mechanism.clipping import Ghost, Hooks, Single, clipper
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.mechanism.step import PrivateStep
from dpft.privacy.randomness import Secret
from dpft.spec import HEAD, Budget
from tests import families

OPTIONS: dict[str, dict[str, Any]] = {
    "slash": {"dim": 7, "init": "normal"},
    "jr_warp": {"dim": 7, "tokens": 2},
    "warp": {"tokens": 3},
    "lora": {"rank": 2},
    "adapter": {"bottleneck": 4},
    "compacter": {"bottleneck": 8, "terms": 2},
    "bitfit": {},
    "rgp": {"rank": 2},
    "linear": {},
    "full": {},
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("slash", {"dim": 7, "init": "zeros", "regenerate": True}),
    ("slash", {"dim": 16, "init": "identity"}),
    ("slash", {"dim": 32, "position": "attention"}),
    ("slash", {"dim": 7, "init": "uniform", "position": "intermediate"}),
    ("jr_warp", {"dim": 7, "tokens": 1, "regenerate": True}),
    ("jr_warp", {"dim": 16, "tokens": 2, "init": "identity"}),
    ("lora", {"rank": 3, "freeze_a": True}),
    ("lora", {"rank": 1, "targets": "query,key,value,attention,intermediate,output"}),
    ("adapter", {"bottleneck": 4, "style": "pfeiffer"}),
    ("compacter", {"bottleneck": 8, "terms": 4, "rank": 2, "style": "pfeiffer"}),
    ("rgp", {"rank": 1, "targets": "value"}),
]
ALL = [(family, name, options) for family in families.NAMES for name, options in OPTIONS.items()]
ALL += [(family, name, options) for family in ("bert", "roberta") for name, options in VARIANTS]
ALL = [(f, n, o) for f, n, o in ALL if (f, n) != ("modernbert", "bitfit")]  # it has no bias; refused, tested below
MERGED = {"slash", "lora", "bitfit", "rgp", "linear", "full"}
CLIP = 0.6
WITHIN = {"modernbert": 1e-6}  # its rotary positions are computed in float32, whatever the model's precision
each = pytest.mark.parametrize(("family", "name", "options"), ALL, ids=lambda v: v if isinstance(v, str) else "")
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


def adapted(
    family: str, name: str, options: dict[str, Any], representation: str = "mask", dtype: torch.dtype = torch.float64
) -> AdaptedModel:
    """A model with the method inside, in the middle of training: nothing is at its start any more."""
    model = families.classifier(family, representation)
    made = methods.load(name, options).attach(model, seed=3)
    made.model.to(dtype).per_example = True
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in {id(p): p for p in (*made.private, *made.updated.values())}.values():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator).to(dtype)
    made.begin(0)
    return made


def gradient_alone(made: AdaptedModel, one: Batch) -> list[Tensor]:
    """The gradient of one example, by autograd and nothing else."""
    made.model.per_example = False
    loss = made.losses(made.model(one), one).sum()
    made.model.per_example = True
    return [g.double() for g in torch.autograd.grad(loss, list(made.private))]


def oracle(made: AdaptedModel, of: Batch, clip: float = CLIP) -> list[Tensor]:
    """One example at a time, without padding and mates: gradient, norm over all parameters, clip, add."""
    total = [torch.zeros_like(p, dtype=torch.float64) for p in made.private]
    for row in range(len(of)):
        gradients = gradient_alone(made, families.alone(of, row))
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        for whole, g in zip(total, gradients, strict=True):
            whole += g * min(1.0, clip / norm)
    return total


def sum_of(made: AdaptedModel, parts: list[Batch], clip: float = CLIP) -> list[Tensor]:
    clip_one = clipper(made, clip)
    found = [clip_one(part) for part in parts]
    clip_one.close()
    return [sum(tensors[1:], tensors[0]).double() for tensors in zip(*found, strict=True)]


def assert_equal(found: list[Tensor], wanted: list[Tensor], within: float) -> None:
    """Relative to the length of the whole gradient, and each tensor by itself where it is not next to nothing."""
    whole = math.sqrt(sum(float((w**2).sum()) for w in wanted))
    for f, w in zip(found, wanted, strict=True):
        assert float((f - w).norm()) <= within * max(float(w.norm()), 1e-3 * whole), (f.shape, f.norm(), w.norm())


@each
def test_the_clipped_sum_is_that_of_gradients_taken_one_at_a_time(family: str, name: str, options: Any) -> None:
    made, of = adapted(family, name, options), families.batch()
    wanted = oracle(made, of)
    within = WITHIN.get(family, 1e-9)
    assert_equal(sum_of(made, [of]), wanted, within)
    # Micro-batches of one, and the last rows with other mates.
    assert_equal(sum_of(made, [families.alone(of, row) for row in range(len(of))]), wanted, within)
    assert_equal(sum_of(made, [of.rows(slice(0, 2)), of.rows(slice(2, 5))]), wanted, within)


@pytest.mark.parametrize("representation", ["cls", "mean"])
@pytest.mark.parametrize("name", OPTIONS)
def test_so_it_is_for_every_representation(name: str, representation: str) -> None:
    made, of = adapted("bert", name, OPTIONS[name], representation), families.batch()
    assert_equal(sum_of(made, [of]), oracle(made, of), 1e-9)


@pytest.mark.parametrize("name", OPTIONS)
def test_micro_batches_of_one_seven_and_all_give_one_sum(name: str) -> None:
    made, of = adapted("roberta", name, OPTIONS[name]), families.batch(tuple(range(3, 14)))
    whole = sum_of(made, [of])
    for size in (1, 7):
        assert_equal(sum_of(made, [of.rows(slice(at, at + size)) for at in range(0, len(of), size)]), whole, 1e-9)


@pytest.mark.parametrize("name", OPTIONS)
def test_float32_sums_equal_float64_sums_to_1e_5(name: str) -> None:
    made, of = adapted("bert", name, OPTIONS[name]), families.batch()
    wanted = oracle(made, of)
    made.model.float()
    assert_equal(sum_of(made, [of]), wanted, 1e-5)


@pytest.mark.parametrize("name", [n for n in OPTIONS if n != "full"])
def test_a_bfloat16_encoder_keeps_float32_gradients_near_the_exact_ones(name: str) -> None:
    made, of = adapted("bert", name, OPTIONS[name], dtype=torch.float32), families.batch()
    wanted = oracle(made, of)
    trained = {id(p) for p in (*made.private, *made.updated.values())}
    for parameter in made.model.backbone.parameters():
        if id(parameter) not in trained:
            parameter.data = parameter.data.bfloat16()
    made.begin(0)
    found = sum_of(made, [of])
    assert all(f.shape == p.shape and p.dtype == torch.float32 for f, p in zip(found, made.private, strict=True))
    whole = math.sqrt(sum(float((w**2).sum()) for w in wanted))
    assert math.sqrt(sum(float(((f - w) ** 2).sum()) for f, w in zip(found, wanted, strict=True))) < 0.1 * whole


@pytest.mark.parametrize("name", list(OPTIONS))
def test_the_head_goes_by_its_name(name: str) -> None:
    # What trains the head alone, or by a rate of its own, knows it by that. Catches a layer that is taken for the head.
    made = adapted("bert", name, OPTIONS[name])
    called = {id(p) for n, p in made.updated.items() if n.startswith(HEAD)}
    assert called == {id(p) for p in made.model.head.parameters()}
    assert methods.head_alone(methods.load(name, OPTIONS[name])) == (called == {id(p) for p in made.updated.values()})


@each
def test_ghost_clipping_and_one_at_a_time_equal_explicit_clipping(family: str, name: str, options: Any) -> None:
    # The three ways against each other, wherever more than one of them is right for the model.
    made, of = adapted(family, name, options), families.batch()
    row = architecture(made.model.backbone.config)
    ways: list[Any] = [Single]
    ways += [Hooks] if made.gradients != "single" else []
    ways += [Ghost] if made.gradients != "single" and not row.shared and name not in ("compacter", "rgp") else []
    sums = []
    for kind in ways:
        one = kind(made, CLIP)
        sums.append([t.double() for t in one(of)])
        one.close()
    for other in sums[1:]:
        assert_equal(other, sums[0], WITHIN.get(family, 1e-9))


@each
def test_only_private_requires_grad_and_is_as_much_as_was_said(family: str, name: str, options: Any) -> None:
    made = adapted(family, name, options)
    assert {id(p) for p in made.model.parameters() if p.requires_grad} == {id(p) for p in made.private}
    counted = sum(p.numel() for p in made.private)
    assert methods.load(name, options).trainable(families.config(family), 3) == counted


class Book:
    def charge(self, event: Any) -> None:
        pass


def step(made: AdaptedModel, parts: list[Batch], noise: float = 1.0) -> None:
    plan = Plan(0.1, 5, noise, CLIP, 10, Budget(8.0, 1e-6), 7.9, "test")
    optimizer = torch.optim.SGD(list(made.updated.values()), lr=1.0)
    taken = PrivateStep(made, plan, optimizer, Book(), Secret(), "run")  # type: ignore[arg-type]
    taken(0, parts)
    taken.close()


def tensors(model: Classifier) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers())}


@each
def test_a_private_step_moves_what_is_updated_and_nothing_else(family: str, name: str, options: Any) -> None:
    made = adapted(family, name, options, dtype=torch.float32)
    moved = {id(p) for p in made.updated.values()}
    # RGP's carriers are found anew before each step, from what was released before.
    free = moved | ({id(p) for p in made.private} if name == "rgp" else set())
    for rows in (5, 1, 0):
        before = tensors(made.model)
        step(made, [families.batch().rows(slice(0, rows))] if rows else [])
        of = dict((*made.model.named_parameters(), *made.model.named_buffers()))
        assert {n for n, t in of.items() if not torch.equal(t, before[n]) and id(t) not in free} == set(), rows
        assert [n for n, t in of.items() if id(t) in moved and torch.equal(t, before[n])] == [], rows
        assert all(p.grad is None and getattr(p, "grad_sample", None) is None for p in made.model.parameters())


@each
def test_a_step_may_follow_a_judgement(family: str, name: str, options: Any) -> None:
    # Catches what is kept from inference mode: autograd refuses such a tensor in the next step.
    made, of = adapted(family, name, options, dtype=torch.float32), families.batch()
    with torch.inference_mode():
        made.model(of)
    step(made, [of])
    with torch.inference_mode():
        made.model(of)
    step(made, [of])


@each
def test_saved_and_loaded_into_a_fresh_model_it_gives_the_same_logits(family: str, name: str, options: Any) -> None:
    made = adapted(family, name, options, dtype=torch.float32)
    fresh = methods.load(name, options).attach(families.classifier(family, "mask"), seed=3)
    fresh.load(made.state())
    of = families.batch()
    torch.testing.assert_close(fresh.model(of), made.model(of), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(
        methods.load(name, options).attach(families.classifier(family, "mask"), seed=3).model(of), made.model(of)
    )


@each
def test_merged_into_the_stock_encoder_it_gives_the_same_logits(family: str, name: str, options: Any) -> None:
    made, of = adapted(family, name, options), families.batch()
    method = methods.load(name, options)
    stateless = family == "modernbert" and name == "slash"  # no bias to merge into
    if name not in MERGED or stateless:
        with pytest.raises(CannotMerge):
            method.merge(made.model)
        return
    logits = made.model(of)
    merged = method.merge(made.model)
    kinds = {type(m).__module__.partition(".")[0] for m in merged.modules()}
    assert kinds <= {"torch", "transformers"}
    bare = Classifier(merged.double(), 3, "mask").double()
    bare.head, bare.center, bare.spread = made.model.head, made.model.center, made.model.spread
    torch.testing.assert_close(bare(of), logits, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(made.model(of), logits, rtol=0, atol=0)  # the original is as it was


# Injected bugs: each must be seen by the comparison with gradients taken one at a time.


def _dropped(made: AdaptedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block's part of the gradient is lost."""
    last = made.model.before.projection  # type: ignore[union-attr]
    right = last.transposed
    monkeypatch.setattr(
        last, "transposed", lambda g: right(torch.cat([g[..., :-16], torch.zeros_like(g[..., -16:])], -1))
    )


def _doubled(made: AdaptedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of a vector are counted twice, as when it is registered under two parents."""
    per_example = Hooks.per_example

    def twice(self: Any, of: Batch) -> list[Tensor]:
        found = per_example(self, of)
        return [found[0] * 2, *found[1:]]

    monkeypatch.setattr(Hooks, "per_example", twice)


def _clipped_apart(made: AdaptedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each parameter is clipped by itself, so that an example may add the clip several times over."""
    whole = clipping.clipped_sum
    monkeypatch.setattr(clipping, "clipped_sum", lambda gs, *how: [whole([g], *how)[0] for g in gs])


def _averaged(made: AdaptedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over the batch instead of the sum."""
    whole = clipping.clipped_sum
    monkeypatch.setattr(clipping, "clipped_sum", lambda gs, *how: [s / len(gs[0]) for s in whole(gs, *how)])


@pytest.mark.parametrize("bug", [_dropped, _doubled, _clipped_apart, _averaged], ids=lambda b: b.__name__.strip("_"))
def test_an_injected_bug_turns_the_contract_red(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made, of = adapted("bert", "slash", OPTIONS["slash"]), families.batch()
    wanted = oracle(made, of)
    assert_equal(sum_of(made, [of]), wanted, 1e-9)
    bug(made, monkeypatch)
    with pytest.raises(AssertionError):
        assert_equal(sum_of(made, [of]), wanted, 1e-9)


@pytest.mark.parametrize(
    ("name", "way"), [("full", "ghost"), ("full", "single"), ("lora", "hooks"), ("slash", "hooks")]
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_adds_nothing(name: str, way: Any, bad: float) -> None:
    # Catches 0 * NaN: a row weighted by zero instead of left out made every parameter NaN.
    made, of = adapted("bert", name, OPTIONS[name]), families.batch()
    wanted = oracle(made, of.rows(torch.tensor([0, 1, 3, 4])))
    losses = type(made).losses
    marked = of.ids[2, 1]
    assert int((of.ids[:, 1] == marked).sum()) == 1

    class Broken(AdaptedModel):
        def losses(self, outputs: Tensor, of: Batch) -> Tensor:
            found = losses(self, outputs, of)
            return found * torch.where(of.ids[:, 1] == marked, bad, 1.0)

    broken = Broken(made.model, made.named, gradients=way)
    assert_equal(sum_of(broken, [of]), wanted, 1e-9)
    assert all(bool((f == 0).all()) for f in sum_of(broken, [of.rows(slice(2, 3))]))


def spoiled(family: str) -> AdaptedModel:
    """A whole model after steps far too long: badly conditioned, and finite."""
    made = adapted(family, "full", {}, dtype=torch.float32)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in made.private:
            parameter += 20 * torch.randn(parameter.shape, generator=generator)
    return made


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_on_a_badly_conditioned_model_no_example_adds_more_than_the_clip(family: str) -> None:
    # Catches a second backward pass of weighted losses: it rounds otherwise than the pass that was measured.
    made, of = spoiled(family), families.batch((11, 3, 6, 9, 4, 8, 5, 7))
    for row in range(len(of)):
        found = sum_of(made, [of.rows(slice(row, row + 1))])
        assert math.sqrt(sum(float((f**2).sum()) for f in found)) <= CLIP * (1 + 1e-6)


def test_tokens_that_cancel_do_not_slip_past_the_clip() -> None:
    # Catches a norm in float64 beside a sum in float32, whose rounding is then all that is left.
    layer = nn.Linear(64, 32, bias=False)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 8, 64, generator=generator) * 1e4
    errors = torch.randn(1, 8, 32, generator=generator)
    inputs, errors = torch.cat([inputs, inputs], 1), torch.cat([errors, -errors * (1 + 1e-7)], 1)
    part = grad_samplers._linear(layer, [inputs], errors)[layer.weight]
    factors = clipping.clip_factors(part.norms, 1e-3)
    found = part.weighted(factors, torch.tensor([True]))
    assert float(found.double().norm()) <= 1e-3 * (1 + 1e-6)


@pytest.mark.parametrize("clip", [1e-6, 2e-5, 2.0, 1e6])
def test_gradients_near_the_end_of_float32_are_clipped_all_the_same(clip: float) -> None:
    # Catches a factor that float32 can only hold as a denormal: the sum came out 18 % longer than the clip.
    for size in torch.linspace(1e36, 3e38, 23).tolist():
        found = clipping.clipped_sum([torch.full((1, 1000), size)], clip)[0]
        assert clip * 0.999 <= float(found.double().norm()) <= clip * (1 + 1e-6)


def test_one_huge_gradient_is_cut_to_the_clip() -> None:
    for name in OPTIONS:
        made, of = adapted("bert", name, OPTIONS[name]), families.batch((6,))
        with torch.no_grad():
            made.model.head.weight.mul_(1e4)
            of = replace(of, labels=made.model(of).argmin(1))
        found = sum_of(made, [of])
        norm = math.sqrt(sum(float((f**2).sum()) for f in found))
        assert norm <= CLIP * (1 + 1e-6)
        assert norm > CLIP * 0.99
