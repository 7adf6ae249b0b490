"""peft's tuners against oracles: one example at a time, our own LoRA, the unmerged model."""

from __future__ import annotations

import copy
import functools
import sys

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from transformers import BertConfig, BertModel

pytest.importorskip("peft", reason="needs the extra `peft`; pip install 'dpft[peft]'")

from dpft import methods
from dpft.data.batch import Batch
from dpft.errors import UserError
from dpft.methods.peft import config_parsing
from dpft.methods.peft.gradient_probe import UnsupportedModel, find_gradient_mode
from dpft.methods.peft.method import Peft
from dpft.methods.peft.per_example_copies import CopiedLayer, with_copies
from dpft.models.adapted import AdaptedModel
from dpft.models.classifier import Classifier, initialise_head
from dpft.privacy.mechanism.clipping import clipper

pytestmark = pytest.mark.filterwarnings("ignore")
# What becomes of each tuner: where its per-example gradients come from, and options that fit a small model.
TABLE: dict[str, tuple[str, dict[str, str]]] = {
    "adalora": ("copies", {}),
    "adamss": ("copies", {"r": "8", "num_subspaces": "2"}),
    "beft": ("copies", {}),
    "boft": ("copies", {"boft_block_size": "8"}),
    "c3a": ("loops", {"block_size": "8"}),
    "deft": ("copies", {"r": "4"}),
    "delora": ("copies", {}),
    "fourierft": ("loops", {"n_frequency": "10"}),
    "frod": ("loops", {"progressbar": "false"}),
    "gralora": ("copies", {"r": "4", "gralora_k": "2"}),
    "hira": ("copies", {"r": "4"}),
    "hra": ("copies", {"r": "4"}),
    "ia3": ("copies", {}),
    "ln_tuning": ("hooks", {}),
    "loha": ("loops", {}),
    "lokr": ("copies", {}),
    "lora": ("hooks", {"r": "4"}),
    "miss": ("copies", {"r": "4"}),
    "oft": ("loops", {"oft_block_size": "8"}),
    "osf": ("copies", {}),
    "peanut": ("copies", {"r": "4"}),
    "psoft": ("copies", {"r": "4"}),
    "pvera": ("copies", {"r": "8"}),
    "randlora": ("loops", {"r": "4"}),
    "road": ("copies", {"group_size": "8"}),
    "shira": ("loops", {"r": "2"}),
    "supertuning": ("copies", {}),
    "tinylora": ("copies", {"u": "8"}),
    "trainable_tokens": ("copies", {"token_indices": "30,31"}),
    "unilora": ("copies", {"r": "4", "theta_d_length": "32"}),
    "vblora": ("copies", {"vector_length": "8", "num_vectors": "16", "topk": "2"}),
    "vera": ("copies", {"r": "8"}),
    "waveft": ("loops", {"n_frequency": "10"}),
}
REFUSED = {"lily": "depend on the others", "glora": "gets no gradient"}
WORKING = sorted(set(TABLE) & set(config_parsing.types_known()))  # an older peft has fewer


def classifier(representation: str = "mask", seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=50,
            max_position_embeddings=20, initializer_range=0.2,
        )  # fmt: skip
        model = Classifier(BertModel(config, add_pooling_layer=False), 3, representation)
    initialise_head(model.head, 0)
    return model


def made(kind: str) -> AdaptedModel:
    """A tuner away from its start, where gradients may vanish."""
    return copy.deepcopy(_made(kind))


@functools.cache
def _made(kind: str) -> AdaptedModel:
    found = methods.load("peft", {"type": kind, **TABLE[kind][1]}).attach(classifier(), seed=4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in found.private:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return found


def batch(count: int = 4, length: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(4, length + 1, (count,), generator=generator)
    lengths[:1] = length
    allowed = torch.arange(length) < lengths[:, None]
    ids = torch.where(allowed, torch.randint(20, 50, (count, length), generator=generator), 0)
    ids[:, 1:3] = torch.tensor([30, 31])
    return Batch(ids, allowed, torch.zeros_like(ids), lengths - 2, torch.arange(count) % 3)


def row(of: Batch, index: int) -> Batch:
    assert of.allowed is not None
    long, one = int(of.allowed[index].sum()), slice(index, index + 1)
    return Batch(of.ids[one, :long], None, None, of.read[one], of.labels[one])


def together(of: AdaptedModel, rows: Batch) -> list[Tensor]:
    twin = copy.deepcopy(of)
    twin.model.per_example = True
    wrapped = GradSampleModule(twin.model, loss_reduction="sum", strict=True)
    twin.losses(wrapped(rows), rows).sum().backward()
    return [p.grad_sample for p in twin.private]


def alone(of: AdaptedModel, rows: Batch) -> list[Tensor]:
    return list(torch.autograd.grad(of.losses(of.model(rows), rows).sum(), list(of.private)))


def way(of: AdaptedModel) -> str:
    sites = [m for m in of.model.modules() if isinstance(m, CopiedLayer)]
    return of.gradients if not sites else "loops" if sites[0]._looped else "copies"


def test_every_tuner_of_the_installed_peft_is_in_the_table() -> None:
    # A peft with a new tuner fails here, so that somebody looks at what becomes of it.
    assert set(config_parsing.types_known()) <= set(TABLE) | set(REFUSED)


@pytest.mark.parametrize("kind", WORKING)
def test_per_example_gradients_equal_one_at_a_time_gradients(kind: str) -> None:
    found, rows = made(kind), batch()
    assert way(found) == TABLE[kind][0]
    gradients = together(found, rows)
    whole = torch.stack([g.norm() for g in gradients]).norm()
    for index in range(len(rows)):
        for all_rows, one in zip(gradients, alone(found, row(rows, index)), strict=True):
            assert (all_rows[index] - one).norm() <= 1e-4 * one.norm() + 1e-6 * whole


@pytest.mark.parametrize("kind", WORKING)
def test_changed_batch_mates_do_not_change_an_examples_gradient(kind: str) -> None:
    found, rows = made(kind), batch()
    ids = rows.ids.clone()
    ids[1:, 3:] = torch.where(rows.allowed[1:, 3:], 70 - ids[1:, 3:].clamp(21, 49), ids[1:, 3:])
    other = Batch(ids, rows.allowed, rows.types, rows.read, rows.labels)
    first, second = together(found, rows), together(found, other)
    whole = torch.stack([g[0].norm() for g in first]).norm()
    for a, b in zip(first, second, strict=True):
        assert (a[0] - b[0]).norm() <= 1e-5 * whole
    assert any((a[1] - b[1]).norm() > 1e-4 * whole for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", WORKING)
def test_merged_it_gives_the_same_logits_and_the_count_is_right(kind: str) -> None:
    found, rows = made(kind), batch()
    method = methods.load("peft", {"type": kind, **TABLE[kind][1]})
    stock = method.merge(found.model)
    assert {n for n, _ in stock.named_parameters()} == {n for n, _ in classifier("mean").backbone.named_parameters()}
    hidden = stock(input_ids=rows.ids, attention_mask=rows.allowed.long(), token_type_ids=rows.types).last_hidden_state
    logits = found.model.head(hidden[torch.arange(len(rows)), rows.read])
    torch.testing.assert_close(logits, found.model(rows), rtol=1e-4, atol=1e-5)
    assert method.trainable(found.model.backbone.config, 3) == sum(p.numel() for p in found.private)


@pytest.mark.parametrize("kind", WORKING)
def test_a_clipped_step_moves_every_tensor_and_a_loaded_state_gives_its_outputs(kind: str) -> None:
    # Catches Opacus with a peft that trains nothing, silently, and a tuner's own random matrices drawn anew.
    found, rows = made(kind), batch()
    before = [p.detach().clone() for p in found.private]
    found.model.per_example = True
    step = clipper(found, 1e3)
    for parameter, gradient in zip(found.private, step(rows), strict=True):
        parameter.data -= gradient
    step.close()
    found.model.per_example = False
    moved = [not torch.equal(p, old) for p, old in zip(found.private, before, strict=True)]
    assert all(moved)
    other = methods.load("peft", {"type": kind, **TABLE[kind][1]}).attach(classifier(), seed=4)
    assert not torch.allclose(other.model(rows), found.model(rows))
    other.load(found.state())
    torch.testing.assert_close(other.model(rows), found.model(rows))


@pytest.mark.parametrize("kind", sorted(set(REFUSED) & set(config_parsing.types_known())))
def test_tuners_that_would_be_wrong_are_refused_with_the_reason(kind: str) -> None:
    with pytest.raises(UserError, match=REFUSED[kind]) as error:
        methods.load("peft", {"type": kind, "r": "4"}).attach(classifier(), seed=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["lora", "vera", "ia3", "loha"])
def test_it_runs_beside_an_encoder_in_bfloat16_with_parameters_in_float32(kind: str) -> None:
    model = classifier()
    model.backbone.to(torch.bfloat16)
    found = methods.load("peft", {"type": kind, **TABLE[kind][1]}).attach(model, seed=4)
    assert all(p.dtype == torch.float32 for p in found.private)
    gradients = clipper(found, 1.0)(batch()) if found.model.before is None else together(found, batch())
    assert all(torch.isfinite(g).all() for g in gradients)
    assert set(found.state()) == set(made(kind).state())


def test_pefts_lora_and_ours_have_the_same_gradients_from_the_same_start() -> None:
    theirs, rows = made("lora"), batch()
    ours = methods.load("lora", {"rank": "4", "alpha": "8"}).attach(classifier(), seed=4)
    names = {"lora_A.default.weight": "down", "lora_B.default.weight": "up"}
    paired = {}
    for name in theirs.named:
        path, _, kind = name.partition(".lora_")
        paired[name] = name if not kind else f"{path}.{names['lora_' + kind]}"
    assert set(paired.values()) == set(ours.named)
    with torch.no_grad():
        for name, other in paired.items():
            ours.named[other].copy_(theirs.named[name])
    mine = dict(zip(ours.named, together(ours, rows), strict=True))
    for name, gradient in zip(theirs.named, together(theirs, rows), strict=True):
        torch.testing.assert_close(gradient, mine[paired[name]], rtol=1e-4, atol=1e-6)


def test_the_public_seed_decides_the_start_and_leaves_other_randomness_alone() -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = (Peft("lora").attach(classifier(), seed=s).state() for s in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    name = next(n for n in first if "lora_A" in n)
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


def test_options_are_converted_as_the_tuners_config_says() -> None:
    method = methods.load(
        "peft", {"type": "lora", "r": "4", "lora_alpha": "16", "use_rslora": "true", "target_modules": "query,value",
                 "rank_pattern": '{"query": 2}', "layers_to_transform": "0,1"},
    )  # fmt: skip
    assert method == Peft(
        "lora",
        {"r": 4, "lora_alpha": 16, "use_rslora": True, "target_modules": ["query", "value"],
         "rank_pattern": {"query": 2}, "layers_to_transform": [0, 1]},
    )  # fmt: skip
    assert methods.load("peft", {"target_modules": "all-linear"}) == Peft("lora", {"target_modules": "all-linear"})
    assert methods.load("peft", {"target_modules": r".*\.(query|key)"}).settings["target_modules"] == r".*\.(query|key)"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": "4"}, "the options of peft's lora are .*r, .*got rank"),
        ({"r": "four"}, "option r must be a whole number"),
        ({"type": "warp9"}, "type must be one of .*lora"),
        ({"type": "prompt_tuning"}, "--method warp"),
        ({"type": "xlora"}, "a forward pass of its own"),
        ({"lora_dropout": "0.1"}, "lora_dropout must be 0"),
        ({"bias": "all"}, "the options of"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(options: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        methods.load("peft", options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"target_modules": "nowhere"}, {"type": "c3a", "block_size": "7"}])
def test_options_that_do_not_fit_the_model_are_refused_in_one_line(options: dict[str, str]) -> None:
    with pytest.raises(UserError, match="must fit this model") as error:
        methods.load("peft", options).attach(classifier(), seed=0)
    assert "\n" not in str(error.value)


def test_a_start_that_changes_the_encoders_weights_is_refused() -> None:
    with pytest.raises(UserError, match="leave the encoder's own weights"):
        methods.load("peft", {"init_lora_weights": "pissa"}).attach(classifier(), seed=0)


class Odd(nn.Module):
    """A dense layer with a trained vector, and something wrong."""

    def __init__(self, dense: nn.Linear, wrong: str) -> None:
        super().__init__()
        self.dense, self.wrong, self.vector = dense, wrong, nn.Parameter(torch.zeros(dense.out_features))
        self.norm = nn.BatchNorm1d(1) if wrong == "norm" else None

    def forward(self, hidden: Tensor) -> Tensor:
        out = self.dense(hidden)
        if self.wrong == "unused":
            return out
        if self.wrong == "random":
            return out + self.vector * torch.rand(())
        return out + self.vector + (out.mean(0, keepdim=True) if self.wrong == "coupled" else 0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("unused", "no part"), ("random", "other outputs each time"), ("coupled", "depend on the others"),
     ("norm", "BatchNorm")],
)  # fmt: skip
def test_the_probe_refuses_layers_whose_gradients_would_mean_nothing(wrong: str, said: str) -> None:
    model = classifier()
    dense = model.backbone.encoder.layer[0].output
    dense.dense = Odd(dense.dense, wrong)
    with pytest.raises(UnsupportedModel, match=said):
        find_gradient_mode(model, ["encoder.layer.0.output.dense.vector"], {}, ())


class Outside(nn.Module):
    """A dense layer that adds a vector of a module which is never called, as BEFT and IA3 do."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.dense, self.held = dense, nn.ParameterDict({"v": nn.Parameter(torch.zeros(dense.out_features))})

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dense(hidden) + self.held["v"]


def test_the_probe_does_not_believe_hooks_that_are_never_called() -> None:
    # Opacus finds no gradient there, and would train nothing, silently.
    model = classifier()
    block = model.backbone.encoder.layer[0].output
    block.dense = Outside(block.dense)
    assert find_gradient_mode(model, ["encoder.layer.0.output.dense.held.v"], {}, ()) == "single"


def test_the_probe_does_not_believe_copies_that_give_other_gradients() -> None:
    # Catches a way that is taken because it runs: here every gradient comes out twice.
    def doubled(model: Classifier, names: list[str]) -> list[nn.Parameter]:
        found = with_copies(model, names, Outside)
        for site in model.backbone.modules():
            if isinstance(site, CopiedLayer):
                site.register_forward_hook(lambda _module, _inputs, out: out + (out - out.detach()))
        return found + list(model.head.parameters())

    model = classifier()
    block = model.backbone.encoder.layer[0].output
    block.dense = Outside(block.dense)
    names = ["encoder.layer.0.output.dense.held.v"]
    assert find_gradient_mode(model, names, {"copies": doubled}, ()) == "single"


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'dpft\[peft\]'"):
        methods.load("peft", {"type": "lora"})
