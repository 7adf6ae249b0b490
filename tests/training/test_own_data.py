"""Whole runs on a user's own files: train, judge, predict, carry away."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from dpft import Budget, Machine, Spec, export, load, resume, train
from dpft.errors import UserError
from dpft.progress import Progress
from dpft.tasks import files
from tests.conftest import BAD, GOOD, WORDS

FP32 = Machine(device="cpu", precision="fp32")
LABELS: dict[str, Any] = {
    "classification": lambda good, short: "good" if good else "bad",
    "regression": lambda good, short: 2.5 if good else -1.0,
    "multi-label": lambda good, short: ["good"] * good + ["short"] * short,
}


def own(path: Path, kind: str, rows: int, seed: int = 0) -> Path:
    """Texts whose words tell their label, whose length another one."""
    rng = Random(seed)
    with open(path, "w") as out:
        for number in range(rows):
            good, short = rng.random() < 0.5, rng.random() < 0.5
            words = [rng.choice(GOOD if good else BAD)] * 3 + [rng.choice(WORDS) for _ in range(1 if short else 12)]
            row = {"body": " ".join(words), "answer": LABELS[kind](good, short), "who": f"person {number // 2}"}
            print(json.dumps(row), file=out)
    return path


def spec(tiny: Path, data: Path, **more: Any) -> Spec:
    values: dict[str, Any] = {
        "method": "linear", "batch_size": 60, "epochs": 8, "learning_rate": 0.2, "max_length": 24,
        "budget": Budget(50.0, 1e-4), **more,
    }  # fmt: skip
    return Spec(task="files", data=str(data), text="body", label="answer", model=str(tiny), **values)


@pytest.mark.parametrize("kind", LABELS)
def test_a_private_run_on_own_files_learns_predicts_and_is_carried_away(
    tiny_bert: Path, tmp_path: Path, kind: str
) -> None:
    held = own(tmp_path / "held.jsonl", kind, 120, seed=1)
    data = own(tmp_path / "own.jsonl", kind, 300)
    ample = Budget(200.0, 1e-4)  # the noise is fresh each time, and must not decide
    asked = spec(tiny_bert, data, validation=str(held), representation="cls", budget=ample, epochs=16)
    result = train(asked, runs=tmp_path / "runs", machine=FP32)
    assert result.value is not None
    # Five runs each found 0.79 to 0.84, 0.56 to 0.58 and 0.86 to 0.88.
    assert result.value > {"classification": 0.7, "regression": 0.5, "multi-label": 0.7}[kind]
    trained = load(result.path, machine=FP32)
    assert trained.evaluate() == (result.metric, result.value)
    assert trained.figures(str(held)) == {result.metric: result.value, **result.further}
    (found,) = trained.predict(["great great warm film"])
    assert isinstance(found.label, {"classification": str, "regression": float, "multi-label": tuple}[kind])
    config = json.loads((export(result.path, tmp_path / "out").path / "config.json").read_text())
    names = {"classification": "single_label_classification", "multi-label": "multi_label_classification"}
    assert config["problem_type"] == names.get(kind, "regression")
    assert [*config["id2label"].values()] == [*trained.labels] or kind == "regression"


def test_a_run_of_units_without_a_validation_set_says_so_and_is_judged_later(tiny_bert: Path, tmp_path: Path) -> None:
    notes: list[str] = []

    class Heard(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    data = own(tmp_path / "own.jsonl", "classification", 120)
    asked = spec(tiny_bert, data, epochs=1, batch_size=30, unit="who")
    result = train(asked, runs=tmp_path / "runs", machine=FP32, progress=Heard())
    assert (result.value, result.further) == (None, {})
    assert any("no validation set" in note for note in notes)
    card = json.loads((result.path / "privacy.json").read_text())
    assert (card["units"], card["adjacency"]) == (60, "adding or removing all examples of one who")
    assert card["does_not_cover"][0].startswith("the kind of answer and the label names: read off the training data")
    trained = load(result.path, machine=FP32)
    with pytest.raises(UserError, match="pass --data FILE"):
        trained.evaluate()
    assert trained.evaluate(str(own(tmp_path / "held.jsonl", "classification", 20)))[0] == "accuracy"
    assert "not evaluated" in (export(result.path, tmp_path / "out", with_code=True).path / "README.md").read_text()


class Stop(Progress):
    def stepped(self, done: int, epsilon: float | None) -> None:
        raise KeyboardInterrupt


def test_a_run_resumes_with_the_labels_it_began_with_or_not_at_all(tiny_bert: Path, tmp_path: Path) -> None:
    data = own(tmp_path / "own.jsonl", "classification", 120)
    with pytest.raises(KeyboardInterrupt):
        train(spec(tiny_bert, data, epochs=2), runs=tmp_path / "runs", machine=FP32, progress=Stop())
    (broken,) = (tmp_path / "runs").iterdir()
    whole = data.read_text()
    data.write_text(whole.replace('"bad"', '"zzz"'))
    with pytest.raises(UserError, match="resume with the labels it began with"):
        resume(broken, machine=FP32)
    data.write_text(whole)
    assert resume(broken, machine=FP32).steps == 4


def test_a_large_file_trains_alike_from_kept_tokens(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not private and at rate 1, so that nothing is drawn at random."""
    monkeypatch.setattr(files, "STORED_ROWS", 10)
    monkeypatch.setenv("DPFT_CACHE", str(tmp_path / "cache"))
    data = own(tmp_path / "own.jsonl", "classification", 60)
    asked = spec(tiny_bert, data, budget=None, epochs=0.5, validation=str(data))
    asked = dataclasses.replace(asked, method="lora", options={"rank": 2})
    trained = [load(train(asked, runs=tmp_path / "runs", machine=FP32).path, machine=FP32) for _ in range(2)]
    assert len(list((tmp_path / "cache" / "encoded").iterdir())) == 2
    tensors = [one.adapted.state() for one in trained]
    assert all(np.array_equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
