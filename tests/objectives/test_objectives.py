"""Objectives: a loss of one example is its own, and what is read off the outputs is what was asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from dpft import objectives
from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.exports import modeling_dpft
from dpft.inference.outputs import evaluate_metrics
from dpft.objectives import Objective
from dpft.objectives.classification import Classification
from dpft.objectives.multilabel import MultiLabel
from dpft.objectives.regression import Regression

NONE = Examples([], None, np.zeros(0))  # reading single labels looks at no rows
OUTPUTS = torch.tensor([[0.5, -1.0, 2.0], [-0.1, 0.0, 3.0], [1.0, 1.0, -4.0], [0.2, 0.3, 0.4]])
LABELS: dict[str, Tensor] = {
    "classification": torch.tensor([2, 0, 1, 1]),
    "regression": torch.tensor([0.5, 2.0, -1.0, 4.5]),
    "multi-label": torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]),
}


def load_task(labels: object) -> Examples:
    found = np.asarray(labels)
    return Examples([""] * len(found), None, found)


def couples(objective: Objective, outputs: Tensor, labels: Tensor) -> bool:
    """Whether a loss depends on another example's outputs, or on how many others there are."""
    outputs = outputs.clone().requires_grad_(True)
    losses = objective.losses(outputs, labels)
    if losses.shape != (len(outputs),):
        return True
    for row, loss in enumerate(losses):
        (slope,) = torch.autograd.grad(loss, outputs, retain_graph=True)
        alone = objective.losses(outputs[row : row + 1], labels[row : row + 1])[0]
        (own,) = torch.autograd.grad(alone, outputs)
        if not torch.allclose(slope, own) or slope[torch.arange(len(outputs)) != row].any():
            return True
    return False


@pytest.mark.parametrize("kind", LABELS)
def test_the_loss_of_an_example_is_its_own(kind: str) -> None:
    assert not couples(objectives.load(kind), OUTPUTS, LABELS[kind])
    empty = objectives.load(kind).losses(OUTPUTS[:0], LABELS[kind][:0])
    assert empty.shape == (0,)


class MeanOverBatch(MultiLabel):
    """The injected bug: the mean over the batch, as the stock loss takes it."""

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(outputs, labels).expand(len(outputs))


def test_a_loss_that_couples_examples_is_caught() -> None:
    assert couples(MeanOverBatch(), OUTPUTS, LABELS["multi-label"])


def test_many_labels_lose_the_sum_of_their_binary_cross_entropies() -> None:
    labels, chances = LABELS["multi-label"].double(), OUTPUTS.double().sigmoid()
    by_hand = -(labels * chances.log() + (1 - labels) * (1 - chances).log()).sum(1)
    torch.testing.assert_close(MultiLabel().losses(OUTPUTS, LABELS["multi-label"]).double(), by_hand)


def test_a_label_applies_from_one_half_on() -> None:
    first, second, *_ = MultiLabel().read(OUTPUTS.numpy(), NONE, ("a", "b", "c"))
    assert (first.label, second.label) == (("a", "c"), ("b", "c"))
    assert second.probability == pytest.approx((0.5, 1 / (1 + np.exp(-3))))
    assert MultiLabel().read(np.full((1, 2), -9.0, np.float32), NONE, ("a", "b"))[0].label == ()
    assert Classification().read(OUTPUTS.numpy()[:0], NONE, ("a", "b", "c")) == []


def test_a_score_starts_in_the_middle_of_its_range_where_errors_have_two_signs() -> None:
    """From 0 every error of a score of 0 to 5 has one sign: clipped, their gradients would all be alike."""
    objective, labels = Regression(0, 5), torch.tensor([0.0, 1.0, 4.0, 5.0])
    slopes = {}
    for start in (objective.start, 0.0):
        outputs = torch.full((4, 1), start, requires_grad=True)
        (slope,) = torch.autograd.grad(objective.losses(outputs, labels).sum(), outputs)
        slopes[start] = slope[:, 0].sign().tolist()
    assert slopes == {2.5: [1, 1, -1, -1], 0.0: [0, -1, -1, -1]}


@pytest.mark.parametrize("kind", LABELS)
def test_an_audits_rows_pull_on_two_sides_and_turned_ones_on_the_other(kind: str) -> None:
    objective, outputs = objectives.load(kind), torch.zeros(4, 2, requires_grad=True)
    labels = objective.opposing(np.array([0, 1, 0, 1]), np.array([False, False, True, True]), 2)
    (slope,) = torch.autograd.grad(objective.losses(outputs, labels).sum(), outputs)
    alike = (slope @ slope.T).sign().tolist()
    assert alike == [[1, -1, -1, 1], [-1, 1, 1, -1], [-1, 1, 1, -1], [1, -1, -1, 1]]


@pytest.mark.parametrize("kind", LABELS)
def test_the_least_likely_label_has_a_slope_in_every_row(kind: str) -> None:
    objective, outputs = objectives.load(kind), (OUTPUTS * 10).requires_grad_(True)
    objective.losses(outputs, objective.least_likely(outputs.detach())).sum().backward()
    assert outputs.grad is not None
    assert (outputs.grad.norm(dim=1) > 0.4).all()


@pytest.mark.parametrize("values", [np.array([[0.5, 1.0]]), np.array([[1.0, 0.0, 1.0]]), np.array([1.0, 0.0])])
def test_labels_of_another_shape_or_value_are_refused(values: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(UserError, match="0 or 1 for each of 2 names"):
        MultiLabel().check(values, ("a", "b"), "training")
    with pytest.raises(UserError, match="finite"):
        Regression().check(np.array([np.nan], np.float32), (), "training")


def test_every_metric_of_every_part_is_named() -> None:
    outputs, labels = OUTPUTS.numpy(), LABELS["multi-label"].numpy()
    parts = {"": (outputs, load_task(labels)), "other": (outputs[:2], load_task(labels[:2]))}
    found = evaluate_metrics(MultiLabel(), ("f1_micro", "f1_macro"), ("a", "b", "c"), parts)
    assert list(found) == ["f1_micro", "f1_macro", "f1_micro_other", "f1_macro_other"]
    applies = outputs >= 0
    right = 2 * (applies * labels).sum() / (applies.sum() + labels.sum())
    assert found["f1_micro"] == pytest.approx(right)


@pytest.mark.parametrize("kind", LABELS)
def test_a_model_that_diverged_has_a_score_of_none(kind: str) -> None:
    objective, labels = objectives.load(kind), LABELS[kind].numpy()
    names = [metric.name for metric in (*objective.metrics, *objective.further)]
    bad = objective.judged(names, np.full((4, 3), np.nan, np.float32), load_task(labels), ("a", "b", "c"))
    assert bad == dict.fromkeys(names, 0.0)
    if kind == "regression":
        alike = objective.judged(names, OUTPUTS.numpy(), load_task(np.ones(4)), ())
        assert alike == dict.fromkeys(names, 0.0)


@pytest.mark.parametrize("kind", objectives.names())
def test_every_kind_says_what_it_becomes_and_is_computed_with_made_up_rows(kind: str) -> None:
    """Catches: a new kind whose stock class or modelling file is not there, or whose placeholders are none of its."""
    objective, names = objectives.load(kind), () if kind == "regression" else ("O", "B-x", "I-x")
    target = objective.export
    assert hasattr(transformers, target.auto_class)
    assert target.custom_class is None or hasattr(modeling_dpft, target.custom_class)
    metrics = (*objective.metrics, *objective.further)
    assert len({metric.name for metric in metrics}) == len(metrics)
    assert all(np.isfinite(metric.worst) for metric in metrics)
    rows = objective.placeholder_rows(["a b", "", "c"], None, len(names))
    objective.check(rows.labels, names, "made-up")
    writes = objective.wording.verb == "write"  # outputs are not those of a head, and say nothing of texts
    width = 2 if writes else objective.outputs(len(names))
    outputs = np.random.default_rng(0).uniform(0.1, 1, size=(len(rows.labels), width))
    assert objective.row_losses(outputs.astype(np.float32), rows).shape == (3,)
    assert writes or len(objective.read(outputs.astype(np.float32), rows, names)) == 3
    assert len(objective.output_names(names)) == objective.outputs(len(names))
    assert set(objective.judged([metric.name for metric in objective.metrics], outputs, rows, names)) == {
        metric.name for metric in objective.metrics
    }
