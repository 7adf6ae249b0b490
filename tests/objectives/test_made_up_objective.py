"""A kind of task that nobody knew of, in one file: it is trained, judged, read, audited and exported like any other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dpft import Budget, Machine, Spec, export, load, objectives, train
from dpft.audit import membership
from dpft.audit.mechanism import sensitivity
from dpft.audit.mechanism.driver import Mechanism
from dpft.errors import UserError
from tests.calling import Command
from tests.conftest import BAD, GOOD, WORDS

FP32 = Machine(device="cpu", precision="fp32")
GRADES = ("low", "middle", "high")
FILE = '''
"""Grades in an order: an output for each threshold, whether the grade is above it (Frank and Hall 2001)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from dpft.objectives import ExportTarget, Metric, Objective, Prediction, Wording
from dpft.errors import UserError


@dataclass(frozen=True)
class Grades(Objective):
    kind = "grades"
    metrics = (Metric("distance", higher_is_better=False, worst=1.0), Metric("accuracy"))
    export = ExportTarget("multi_label_classification", "[labels[(row >= 0).sum()] for row in logits]")
    wording = Wording(outputs="grades from the lowest: {labels}")

    def named(self, column, stated):
        if stated is None:
            raise UserError("grades must be named in their order, got none; pass --labels low,high")
        return self, stated

    def parse(self, column, labels, split):
        for cell, first in column.each():
            if cell not in labels:
                raise column.unknown(first, split, labels)
        return column.spread([labels.index(cell) for cell in column.cells], np.int64)

    def check(self, values, labels, split):
        if not np.isin(values, np.arange(len(labels))).all():
            raise UserError(f"{split} grades must be of those named, got others; correct --labels")

    def blank(self, rows, labels):
        return np.zeros(rows, np.int64)

    def outputs(self, labels):
        return labels - 1

    def output_names(self, labels):
        return tuple(f"above {name}" for name in labels[:-1])

    def losses(self, outputs, labels):
        above = (labels.unsqueeze(1) > torch.arange(outputs.shape[1], device=labels.device)).to(outputs.dtype)
        return nn.functional.binary_cross_entropy_with_logits(outputs, above, reduction="none").sum(1)

    def score(self, metrics, outputs, rows, labels):
        off = np.abs((outputs >= 0).sum(1) - rows.labels)
        found = {"distance": off.mean() / (len(labels) - 1), "accuracy": (off == 0).mean()}
        return {metric: float(found[metric]) for metric in metrics}

    def read(self, outputs, rows, labels):
        sure = 1 / (1 + np.exp(-np.abs(outputs)).max(1))
        return [Prediction(labels[int((row >= 0).sum())], float(one)) for row, one in zip(outputs, sure)]

    def least_likely(self, outputs):
        return torch.where(outputs.sum(1) > 0, 0, outputs.shape[1])

    def opposing(self, sides, turned, outputs):
        return torch.as_tensor(np.where((sides == 1) ^ turned, outputs, 0))

    def canary_labels(self, true, rest, labels, rng):
        return np.array([*((label + 1) % labels for label in true), *(rng.randrange(labels) for _ in range(rest))])


OBJECTIVE = Grades
'''


@pytest.fixture(autouse=True)
def _one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "objectives"
    folder.mkdir()
    (folder / "grades.py").write_text(FILE)
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(folder)])
    yield
    sys.modules.pop("dpft.objectives.grades", None)
    vars(objectives).pop("grades", None)


def graded(path: Path, rows: int, seed: int) -> Path:
    """Texts of good words, of bad ones, or of neither."""
    rng = Random(seed)
    with path.open("w") as out:
        for _ in range(rows):
            grade = rng.randrange(3)
            told = [rng.choice((BAD, WORDS[:20], GOOD)[grade]) for _ in range(4)]
            print(json.dumps({"body": " ".join([*told, rng.choice(WORDS)]), "grade": GRADES[grade]}), file=out)
    return path


@pytest.fixture
def spec(tiny_bert: Path, tmp_path: Path) -> Spec:
    data, held = graded(tmp_path / "own.jsonl", 240, 0), graded(tmp_path / "held.jsonl", 60, 1)
    return Spec(
        task="files", data=str(data), text="body", label="grade", kind="grades", labels=GRADES, validation=str(held),
        model=str(tiny_bert), method="slash", options={"dim": 12}, representation="cls", max_length=24, batch_size=60,
        epochs=6, learning_rate=0.02, head_learning_rate=0.3, budget=Budget(50.0, 1e-4),
    )  # fmt: skip


@pytest.fixture
def path(spec: Spec, tmp_path: Path) -> Path:
    return train(spec, runs=tmp_path / "runs", ledger=tmp_path / "ledger.sqlite", machine=FP32).path


def test_it_is_judged_by_its_own_metrics_of_which_one_is_better_when_lower(path: Path, dpft: Command) -> None:
    found, task = (json.loads((path / f"{name}.json").read_text()) for name in ("result", "task"))
    assert (found["metric"], list(found["further"]), found["higher_is_better"]) == ("distance", ["accuracy"], False)
    assert (task["kind"], task["labels"], task["metrics"]) == ("grades", list(GRADES), ["distance", "accuracy"])
    assert 0 <= found["value"] <= 1
    assert load(path, machine=FP32).figures() == {"distance": found["value"], **found["further"]}
    code, out, _ = dpft("evaluate", path, "--precision", "fp32")
    assert (code, out.split()[0]) == (0, "distance")


def test_it_is_read_as_it_says(path: Path, dpft: Command) -> None:
    code, out, _ = dpft("predict", path, "--text", "great great warm film", "--precision", "fp32")
    assert code == 0
    assert out.split("\t")[0] in GRADES
    code, out, _ = dpft("predict", path, "--text", "great", "--precision", "fp32", "--json")
    assert set(json.loads(out)) == {"text", "label", "probability", "private"}


def test_its_gradients_are_audited(path: Path) -> None:
    assert [(c.name, c.value) for c in sensitivity.checks(load(path, machine=FP32), Mechanism()) if not c.passed] == []


def test_its_members_are_asked_for(spec: Spec, tmp_path: Path) -> None:
    planted = spec.stating(canaries=16)
    result = train(planted, runs=tmp_path / "runs", ledger=tmp_path / "ledger.sqlite", machine=FP32)
    found = membership.checks(load(result.path, machine=FP32), 1e-4)
    assert [check.name for check in found if not check.passed] == []
    assert any(check.kind == "bound" for check in found)


def test_it_is_carried_away_with_an_output_for_each_threshold(path: Path, tmp_path: Path) -> None:
    found = export(path, tmp_path / "out")
    config: dict[str, Any] = json.loads((found.path / "config.json").read_text())
    assert [*config["id2label"].values()] == ["above low", "above middle"]
    assert config["problem_type"] == "multi_label_classification"
    assert "grades from the lowest: low, middle, high" in (found.path / "README.md").read_text()


def test_it_is_named_among_the_kinds_and_refuses_what_it_has_not(spec: Spec, tmp_path: Path) -> None:
    assert "grades" in objectives.names()
    with pytest.raises(UserError, match="kind must be one of classification, grades, multi-label, regression, got 'x'"):
        train(spec.stating(kind="x"), runs=tmp_path / "runs", machine=FP32)
    weights = dict.fromkeys(GRADES, 2.0)
    with pytest.raises(UserError, match="one label of several, got a task of grades"):
        train(spec.stating(class_weights=weights), runs=tmp_path / "runs", machine=FP32)
