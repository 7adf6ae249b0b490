"""What a probe learns from synthetic and from real rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.generation import usefulness
from dpft.generation.usefulness import Probe, predictions
from dpft.machine.hardware import resolve
from dpft.objectives import plain
from dpft.privacy.mechanism.plan import Plan
from dpft.spec import Budget, Machine, Spec
from dpft.tasks import Task
from tests.conftest import BAD, GOOD

CPU = resolve(Machine("cpu", "fp32"))
NAMES = ("bad", "good")


def messages(count: int, seed: int) -> Examples:
    rng = Random(seed)
    labels = [rng.randrange(2) for _ in range(count)]
    texts = [f"the film is {rng.choice(GOOD if label else BAD)}" for label in labels]
    return Examples(texts, None, np.array(labels, np.int64))


def probe(tiny_bert: Path, spec: Spec | None = None) -> Probe:
    """On 120 training rows; with a unit, two of each."""
    spec = spec or Spec()
    rows = messages(120, 0)
    if spec.unit != "example":
        rows = replace(rows, units=np.arange(120) // 2)
    return Probe(Task("text/files", rows, messages(60, 1), NAMES, "accuracy", plain(2)), spec, CPU, str(tiny_bert))


def test_predictions_of_separable_features_are_right_and_a_missing_label_is_never_given() -> None:
    rng = np.random.default_rng(0)
    centers = np.array([[5, 0], [0, 5], [-5, -5]], np.float32)
    labels = rng.integers(0, 3, 300)
    features = (centers[labels] + 0.1 * rng.standard_normal((300, 2))).astype(np.float32)
    assert (predictions(features, labels, features) == labels).all()
    two = labels < 2
    assert set(predictions(features[two], labels[two], features).tolist()) == {0, 1}
    one = labels == 2
    assert set(predictions(features[one], labels[one], features).tolist()) == {2}
    assert predictions(features[:1], labels[:1], features[:1]).tolist() == labels[:1].tolist()


def test_features_of_unequal_spread_count_alike() -> None:
    """Catches features that are not standardised: the penalty would hide the small one, which decides."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    features = np.stack([1000 * rng.standard_normal(200), 1e-4 * (2 * labels - 1)], 1).astype(np.float32)
    assert (predictions(features, labels, features) == labels).mean() > 0.98


def test_a_probe_learns_from_true_labels_and_not_from_turned_ones(tiny_bert: Path) -> None:
    judged, rows = probe(tiny_bert), messages(100, 2)
    true = judged.synthetic(rows.texts, rows.labels)
    turned = judged.synthetic(rows.texts, 1 - rows.labels)
    assert true.accuracy == pytest.approx(1 - turned.accuracy, abs=0.1)
    assert min(true.accuracy, true.f1_macro) > 0.9
    only = judged.synthetic(rows.texts, np.ones(100, np.int64))
    assert only.f1_macro < 0.5 < 0.7 > only.accuracy
    assert judged.synthetic(["a text"], np.array([0])).accuracy == pytest.approx(1 - only.accuracy)


@pytest.mark.parametrize(("unit", "units"), [("example", 120), ("person", 60)])
def test_a_private_training_beside_it_is_real_and_leaves_nothing(
    unit: str, units: int, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Injected bugs: a twin without noise, on another budget or unit, or in the user's own ledger."""
    plans: list[Plan] = []
    trained = usefulness.train

    def watched(spec: Spec, **given: object) -> object:
        assert spec.budget == Budget(50.0, 1e-3)
        assert (spec.unit, spec.method) == (unit, "linear")
        assert Path(str(given["ledger"])).is_relative_to(tmp_path / "private")
        found = trained(spec, **given)  # type: ignore[arg-type]
        from dpft.runs.folder import Run

        plans.append(Run.open(found.path).plan)
        return found

    monkeypatch.setattr(usefulness, "train", watched)
    found = probe(tiny_bert, Spec(budget=Budget(50.0, 1e-3), unit=unit)).real(tmp_path / "private")
    assert found.private is not None
    assert found.refused is None
    assert found.exact.accuracy > 0.9
    (plan,) = plans
    assert plan.noise > 0
    assert plan.expected_batch == units  # as few units are drawn whole
    assert plan.epsilon_upper is not None
    assert 40 < plan.epsilon_upper <= 50
    assert list((tmp_path / "private").iterdir()) == []
    assert (tmp_path / "private").stat().st_mode & 0o077 == 0
    assert not (tmp_path / "ledger.sqlite").exists()  # the user's


def test_without_a_budget_or_where_no_run_can_be_made_it_says_so(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = probe(tiny_bert)
    assert judged.real(tmp_path).private is None
    assert judged.real(tmp_path).refused == "the run is not private"

    def refuses(*_: object, **__: object) -> object:
        raise UserError("a recipe is for 8 examples or more")

    monkeypatch.setattr(usefulness, "train", refuses)
    found = probe(tiny_bert, Spec(budget=Budget(1.0, 1e-5))).real(tmp_path)
    assert (found.private, found.refused) == (None, "a recipe is for 8 examples or more")
    assert list(tmp_path.iterdir()) == []
