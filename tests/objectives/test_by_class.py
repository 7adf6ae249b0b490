"""What accuracy hides: the largest class, macro-F1, recall of each class; class weights and stated shares."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import classification_report

from dpft import Machine, Spec, UserError, objectives, train
from dpft.data.examples import Examples
from dpft.objectives.classification import Classification
from dpft.tasks import load
from tests.calling import Command
from tests.conftest import BAD, GOOD, WORDS

FP32 = Machine(device="cpu", precision="fp32")
NAMES = ("calm", "urgent")


def skewed(path: Path, rows: int, rare: int, seed: int) -> Path:
    """Texts of two classes, of which every `rare`-th is urgent."""
    rng = np.random.default_rng(seed)
    with path.open("w") as out:
        for number in range(rows):
            urgent = number % rare == 0
            words = [*rng.choice(BAD if urgent else GOOD, 2), *rng.choice(WORDS, 4)]
            print(json.dumps({"body": " ".join(words), "kind": NAMES[urgent]}), file=out)
    return path


def load_task(labels: np.ndarray) -> Examples:  # type: ignore[type-arg]
    return Examples([""] * len(labels), None, labels)


def by_class(outputs: Any, labels: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return Classification().by_class(outputs, load_task(labels), names)


def spec(data: Path, tiny: Path, **more: Any) -> Spec:
    return Spec(task="files", data=str(data), text="body", label="kind", labels=NAMES, model=str(tiny), **more)


@pytest.mark.parametrize("seed", range(4))
def test_the_figures_are_those_of_scikit_learns_report(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs, labels = rng.normal(size=(200, 3)).astype(np.float32), rng.integers(0, 3, 200)
    found = by_class(outputs, labels, ("a", "b", "c"))
    report = classification_report(labels, outputs.argmax(1), output_dict=True, target_names=["a", "b", "c"])
    assert found["f1_macro"] == pytest.approx(report["macro avg"]["f1-score"])
    assert found["recall"] == pytest.approx({name: report[name]["recall"] for name in "abc"})
    assert found["largest"]["share"] == pytest.approx(np.bincount(labels).max() / 200)


def test_a_model_that_names_one_class_for_all_is_told_so() -> None:
    # 95 : 5 rows, the larger class for every row: accuracy .95, and nothing said so.
    labels = np.array([0] * 95 + [1] * 5)
    outputs = np.tile(np.array([[1.0, 0.0]], np.float32), (100, 1))
    found = by_class(outputs, labels, NAMES)
    assert found["largest"] == {"label": "calm", "share": 0.95}
    assert found["recall"] == {"calm": 1.0, "urgent": 0.0}
    assert found["f1_macro"] < 0.5


@pytest.mark.parametrize(
    ("kind", "labels", "names"),
    [
        ("classification", np.zeros(0, np.int64), NAMES),
        ("regression", np.zeros(3, np.float32), ()),
        ("multi-label", np.zeros((3, 2), np.float32), NAMES),
    ],
)
def test_scores_many_labels_and_no_rows_have_no_classes(kind: str, labels: Any, names: tuple[str, ...]) -> None:
    outputs = np.zeros((len(labels), 2), np.float32)
    assert objectives.load(kind).by_class(outputs, load_task(labels), names) == {}


def test_weighted_losses_lead_to_the_decision_of_least_cost() -> None:
    # The oracle: outputs that minimise the mean loss are log(p w) up to a constant. Catches weights with a wrong sign.
    chance, weights = np.array([0.95, 0.05]), (1.0, 30.0)
    outputs = torch.zeros(1, 2, requires_grad=True)
    optimizer = torch.optim.LBFGS([outputs], max_iter=200)
    objective = Classification(weights)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        each = objective.losses(outputs.expand(2, 2), torch.tensor([0, 1]))
        total = (each * torch.tensor(chance)).sum()
        total.backward()
        return total

    optimizer.step(loss)
    found = outputs.detach().numpy()[0]
    assert found[1] - found[0] == pytest.approx(np.log(0.05 * 30) - np.log(0.95), abs=1e-3)


def test_equal_weights_are_no_weights() -> None:
    outputs, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(
        Classification((2.0, 2.0, 2.0)).losses(outputs, labels), Classification().losses(outputs, labels)
    )


@pytest.mark.usefixtures("drawn_alike")
def test_a_rare_class_is_found_with_balanced_weights(tiny_bert: Path, tmp_path: Path) -> None:
    # Catches weights that are written down and not used. Without noise and with equal draws nothing is left to chance.
    data, held = skewed(tmp_path / "a.jsonl", 600, 20, 0), skewed(tmp_path / "b.jsonl", 400, 20, 1)
    plain = spec(data, tiny_bert, validation=str(held), method="linear", epochs=20, learning_rate=0.3)
    shares = {"calm": 0.95, "urgent": 0.05}
    weighted = replace(plain, class_weights="balanced", shares=shares)
    found = [train(one, runs=tmp_path / "runs", machine=FP32) for one in (plain, weighted)]
    assert found[1].classes["recall"]["urgent"] > found[0].classes["recall"]["urgent"] + 0.2
    assert json.loads((found[1].path / "spec.json").read_text())["shares"] == shares


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"class_weights": {"calm": 1.0, "angry": 2.0}}, r"1 unknown \(angry\) and 1 left out"),
        ({"class_weights": {"calm": 1.0}}, "0 unknown and 1 left out"),
        ({"class_weights": "balanced", "shares": {"calm": 0.5, "angry": 0.5}}, "shares must name every class once"),
    ],
)
def test_weights_of_unknown_classes_are_refused(
    tiny_bert: Path, tmp_path: Path, asked: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        load(spec(skewed(tmp_path / "a.jsonl", 20, 5, 0), tiny_bert, **asked))


def test_classes_that_were_read_off_training_rows_are_not_told_in_a_refusal(tiny_bert: Path, tmp_path: Path) -> None:
    # Catches a message that lists them: a label that one person alone has would stand in a log.
    data = skewed(tmp_path / "a.jsonl", 20, 20, 0)
    with pytest.raises(UserError, match="name every class once") as refused:
        load(replace(spec(data, tiny_bert), labels=None, class_weights={"calm": 1.0, "angry": 2.0}))
    assert "urgent" not in str(refused.value)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"class_weights": {"a": 0.0, "b": 1.0}}, "class-weights must be balanced, or a number above 0"),
        ({"class_weights": "heavy"}, "class-weights must be balanced"),
        ({"class_weights": "balanced"}, "state them: --shares"),
        ({"shares": {"a": 0.5, "b": 0.5}}, "shares go with balanced"),
        ({"class_weights": "balanced", "shares": {"a": 0.5, "b": 0.4}}, "sum to 1, got 0.9"),
        ({"class_weights": "balanced", "shares": {"a": 1.5, "b": -0.5}}, "a number above 0 for each"),
    ],
)
def test_weights_and_shares_that_make_no_sense_are_refused(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Spec(**asked)


def test_scores_take_no_class_weights(glue_folder: Any) -> None:
    with pytest.raises(UserError, match="one label of several, got a task of regression"):
        load(Spec(task="glue/stsb", data=str(glue_folder("stsb")), class_weights={"a": 1.0, "b": 2.0}))


def test_bad_flags_are_one_line(dpft: Command) -> None:
    for flags, told in (
        (("--class-weights", "a=x"), "--class-weights must be NAME=NUMBER"),
        (("--class-weights", "balanced", "--shares", "a=0.2,b=0.2"), "sum to 1, got 0.4"),
        (("--time", "soon"), "--time must be a time above 0"),
    ):
        code, out, err = dpft("train", "--epsilon", "3", "--delta", "1e-6", *flags)
        assert (code, out) == (2, "")
        assert told in err
        assert len(err.strip().splitlines()) == 1
