"""SLaSh against oracles: the paper's formula, one-at-a-time gradients, the paper's parameter counts."""

from __future__ import annotations

import copy

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from dpft import methods
from dpft.data.batch import Batch
from dpft.errors import UserError
from dpft.methods.slash import ShiftedDense, Slash
from dpft.models.adapted import AdaptedModel
from dpft.models.architectures import blocks
from dpft.models.classifier import Classifier, initialise_head
from dpft.models.random_projections import RandomStream, StoredProjection

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")
SMALL = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 24, "vocab_size": 50,
}  # fmt: skip
FAMILIES = {
    "bert": lambda: BertModel(BertConfig(**SMALL, max_position_embeddings=20), add_pooling_layer=False),
    "roberta": lambda: RobertaModel(RobertaConfig(**SMALL, max_position_embeddings=22), add_pooling_layer=False),
}


def classifier(family: str, representation: str = "mask", dtype: torch.dtype = torch.float64) -> Classifier:
    torch.manual_seed(0)
    model = Classifier(FAMILIES[family](), 3, representation)
    initialise_head(model.head, 0)
    return model.to(dtype)


def adapted(family: str, representation: str = "mask", dtype: torch.dtype = torch.float64, **options) -> AdaptedModel:
    made = methods.load("slash", {"dim": 11, **options}).attach(classifier(family, representation, dtype), seed=4)
    with torch.no_grad():  # away from any special point
        made.named["z"] += torch.linspace(-1, 1, made.named["z"].numel(), dtype=dtype)
    made.model.to(dtype)
    return made


def batch(count: int = 5, length: int = 9) -> Batch:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(3, length + 1, (count,), generator=generator)
    if count:
        lengths[0] = length
    allowed = torch.arange(length) < lengths[:, None]
    ids = torch.where(allowed, torch.randint(3, 50, (count, length), generator=generator), 1)
    return Batch(ids, allowed, None, lengths - 2, torch.arange(count) % 3)


def row(of: Batch, index: int) -> Batch:
    """One row alone, without its padding."""
    long = int(of.allowed[index].sum())
    one = slice(index, index + 1)
    return Batch(of.ids[one, :long], None, None, of.read[one], of.labels[one])


def per_example(made: AdaptedModel, of: Batch) -> list[Tensor]:
    model = copy.deepcopy(made)
    model.model.per_example = True
    wrapped = GradSampleModule(model.model, loss_reduction="sum", strict=True)
    model.losses(wrapped(of), of).sum().backward()
    return [p.grad_sample for p in model.private]


def alone(made: AdaptedModel, of: Batch) -> list[Tensor]:
    return list(torch.autograd.grad(made.losses(made.model(of), of).sum(), list(made.private)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("representation", ["mask", "cls", "mean"])
@pytest.mark.parametrize("position", ["output", "attention", "intermediate"])
def test_per_example_gradients_equal_one_at_a_time_gradients(family, representation, position) -> None:
    # Catches: a block's gradient dropped or counted twice, padding that leaks, a gradient of the batch's mean.
    made, of = adapted(family, representation, position=position), batch()
    together = per_example(made, of)
    for index in range(len(of)):
        for whole, one in zip(together, alone(made, row(of, index)), strict=True):
            torch.testing.assert_close(whole[index], one, rtol=1e-9, atol=1e-12)


def test_float32_gradients_equal_float64_gradients_to_1e_5() -> None:
    of = batch()
    exact, single = per_example(adapted("bert"), of), per_example(adapted("bert", dtype=torch.float32), of)
    for a, b in zip(single, exact, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


def test_changed_batch_mates_do_not_change_an_examples_gradient() -> None:
    made, of = adapted("bert"), batch()
    ids = of.ids.clone()
    ids[1:] = torch.where(of.allowed[1:], 51 - of.ids[1:].clamp(3, 48), of.ids[1:])
    other = Batch(ids, of.allowed, None, of.read, of.labels)
    for a, b in zip(per_example(made, of), per_example(made, other), strict=True):
        torch.testing.assert_close(a[0], b[0], rtol=1e-12, atol=1e-14)
        assert not torch.equal(a[1], b[1])


def test_a_batch_of_one_has_one_gradient() -> None:
    made, of = adapted("bert"), row(batch(), 0)
    for whole, one in zip(per_example(made, of), alone(made, of), strict=True):
        torch.testing.assert_close(whole, one[None], rtol=1e-9, atol=1e-12)


def test_one_row_and_all_rows_give_the_same_outputs() -> None:
    # The non-private path hands out one shift for all rows; it must be the private path's.
    made, of = adapted("bert"), batch()
    plain = made.model(of)
    made.model.per_example = True
    torch.testing.assert_close(made.model(of), plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_blocks_output_gains_its_own_projection_of_z(family: str) -> None:
    # The formula itself, written out with hooks on the stock model: block l's dense output + W_l z.
    made, of = adapted(family, "mean"), batch()
    stock = classifier(family, "mean")
    z, weight = made.named["z"].detach(), made.model.before.projection.weight
    for index, block in enumerate(blocks(stock.backbone)):
        shift = weight[16 * index : 16 * (index + 1)] @ z
        block.output.dense.register_forward_hook(lambda _module, _inputs, out, shift=shift: out + shift)
    torch.testing.assert_close(made.model(of), stock(of), rtol=1e-10, atol=1e-12)


def test_only_z_and_the_head_are_trained() -> None:
    made = adapted("bert")
    wanted = {id(p) for p in made.private}
    assert {id(p) for p in made.model.parameters() if p.requires_grad} == wanted
    assert sum(p.numel() for p in made.private) == 11 + 3 * 17


def test_z_is_registered_once() -> None:
    # Registered under several parents, its gradient came out as many times too large.
    made = adapted("bert")
    assert sum(m is made.model.before.z for m in made.model.modules()) == 1
    assert len([n for n, _ in made.model.named_modules(remove_duplicate=False) if n.endswith("before.z")]) == 1


def test_nothing_below_the_first_shift_is_given_a_backward_pass() -> None:
    made, of = adapted("bert"), batch()
    seen: list[bool] = []
    first = blocks(made.model.backbone)[0]
    first.attention.register_forward_hook(lambda _m, _i, out: seen.append(out[0].requires_grad))
    first.output.register_forward_hook(lambda _m, _i, out: seen.append(out.requires_grad))
    made.model(of)
    assert seen == [False, True]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("position", ["output", "attention", "intermediate"])
def test_merged_into_the_biases_the_model_gives_the_same_outputs(family: str, position: str) -> None:
    made, of = adapted(family, "cls", position=position), batch()
    merged = Slash(dim=11, position=position).merge(made.model)
    assert not any(isinstance(m, ShiftedDense) for m in merged.modules())
    hidden = merged(input_ids=of.ids, attention_mask=of.allowed.long()).last_hidden_state
    read = hidden[torch.arange(len(of)), of.read]
    torch.testing.assert_close(made.model.head(read), made.model(of), rtol=1e-10, atol=1e-12)


def test_state_and_load_round_trip() -> None:
    made, other = adapted("bert"), adapted("bert")
    with torch.no_grad():
        made.named["z"] += 1
    other.load(made.state())
    torch.testing.assert_close(other.model(batch()), made.model(batch()))
    with pytest.raises(ValueError, match=r"the saved tensor 'head\.bias' must be"):
        other.load({"z": torch.zeros(3)})


@pytest.mark.parametrize("init", ["normal", "uniform"])
def test_projections_and_z_have_variance_one_over_d(init: str) -> None:
    # The paper's own interval, U(-1/sqrt(12 d), 1/sqrt(12 d)), has a twelfth of a third of that.
    draw = RandomStream(4000, 0, init)
    z, weight = draw(0, (4000,)), draw(1, (32, 4000))
    assert z.var().item() * 4000 == pytest.approx(1, abs=0.15)
    assert weight.var().item() * 4000 == pytest.approx(1, abs=0.03)


def test_zeros_starts_at_the_pretrained_model() -> None:
    made = methods.load("slash", {"dim": 11, "init": "zeros"}).attach(classifier("bert"), seed=0)
    made.model.to(torch.float64)
    torch.testing.assert_close(made.model(batch()), classifier("bert")(batch()), rtol=1e-12, atol=1e-14)


def test_a_seed_means_the_same_projection_for_ever() -> None:
    # NumPy freezes Philox' stream; a change here would make every saved run another model. The logarithm and the
    # cosine may differ in their last bits between machines, so the numbers are compared, not hashed.
    normal, uniform = RandomStream(64, 7, "normal")(1, (3,)), RandomStream(64, 7, "uniform")(1, (3,))
    torch.testing.assert_close(normal, torch.tensor([-0.079851881, -0.062197592, -0.122806564]), rtol=1e-5, atol=0)
    torch.testing.assert_close(uniform, torch.tensor([-0.116413824, 0.152653426, -0.006581401]), rtol=1e-6, atol=0)


def test_blocks_and_seeds_have_projections_of_their_own() -> None:
    draw = RandomStream(64, 7, "normal")
    weight = StoredProjection(draw, [8, 8]).weight
    assert not torch.equal(weight[:8], weight[8:])
    assert not torch.equal(StoredProjection(RandomStream(64, 8, "normal"), [8]).weight, weight[:8])


@pytest.mark.parametrize(
    "options", [{"dim": "0"}, {"dim": "1.5"}, {"init": "ones"}, {"position": "query"}, {"scale": "nan"}, {"dims": "3"}]
)
def test_options_out_of_range_are_refused_in_one_line(options: dict[str, str]) -> None:
    with pytest.raises(UserError) as error:
        methods.load("slash", options)
    assert "\n" not in str(error.value)


def test_options_arrive_as_strings_or_numbers() -> None:
    assert methods.load("slash", {"dim": "5000", "scale": "0.5"}) == Slash(dim=5000, scale=0.5)
    assert methods.load("slash", {"dim": 5000}) == Slash(dim=5000)


def test_the_head_is_a_plain_linear_layer() -> None:
    assert type(adapted("bert").model.head) is nn.Linear


def test_regenerated_matrices_are_those_that_would_be_kept() -> None:
    # The same outputs and the same gradient of z, from one block's matrix at a time.
    kept, anew, of = adapted("bert", dim=11), adapted("bert", dim=11, regenerate=True), batch()
    torch.testing.assert_close(anew.model(of), kept.model(of), rtol=1e-12, atol=1e-14)
    gradients = [
        torch.autograd.grad(made.losses(made.model(of), of).sum(), made.named["z"])[0] for made in (kept, anew)
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-14)
    assert not list(anew.model.before.buffers())


def test_a_regenerated_projection_follows_z() -> None:
    # Catches a projection that is kept from an older z.
    anew, of = adapted("bert", dim=11, regenerate=True), batch()
    before = anew.model(of)
    with torch.no_grad():
        anew.named["z"] += 1
    kept = adapted("bert", dim=11)
    with torch.no_grad():
        kept.named["z"].copy_(anew.named["z"])
    assert not torch.allclose(anew.model(of), before)
    torch.testing.assert_close(anew.model(of), kept.model(of), rtol=1e-12, atol=1e-14)


def test_at_its_longest_z_is_one_free_bias_for_each_block() -> None:
    made, of = adapted("bert", dim=48), batch()
    stock = classifier("bert")
    for block, part in zip(blocks(stock.backbone), made.named["z"].detach().split(16), strict=True):
        block.output.dense.bias.data += part
    torch.testing.assert_close(made.model(of), stock(of), rtol=1e-10, atol=1e-12)


def test_the_identity_shifts_every_block_by_z_itself() -> None:
    made, of = adapted("bert", dim=16, init="identity"), batch()
    stock = classifier("bert")
    for block in blocks(stock.backbone):
        block.output.dense.bias.data += made.named["z"].detach()
    torch.testing.assert_close(made.model(of), stock(of), rtol=1e-10, atol=1e-12)


def test_the_identity_needs_a_z_of_a_blocks_width() -> None:
    with pytest.raises(UserError, match="init identity needs dim 16 or 48 on this model, got 11"):
        methods.load("slash", {"dim": 11, "init": "identity"}).attach(classifier("bert"), seed=0)


def test_under_a_bfloat16_encoder_the_gradient_of_z_is_projected_in_its_precision() -> None:
    # Beside the same gradients through float32 matrices: rounding, and nothing else.
    of, gradients = batch(), []
    for narrow in (True, False):
        model = classifier("bert", dtype=torch.float32)
        model.backbone.to(torch.bfloat16)
        made = methods.load("slash", {"dim": 11}).attach(model, seed=4)
        assert made.model.before.projection.narrow is not None
        assert made.model.before.projection.weight.dtype == torch.float32
        if not narrow:
            made.model.before.projection.narrow = None
        gradients.append(per_example(made, of)[0])
    assert gradients[0].dtype == torch.float32
    assert not torch.equal(*gradients)
    assert float((gradients[0] - gradients[1]).norm()) < 0.01 * float(gradients[1].norm())
