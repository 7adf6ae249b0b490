"""The whole line on a tiny model: train, kill, resume, load, repeat."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dpft import Budget, Machine, Spec, UserError, load, resume, train
from dpft.privacy.ledger import Ledger, LedgerError
from dpft.progress import Progress
from dpft.run import Run

FP32 = Machine(device="cpu", precision="fp32")


@pytest.fixture
def spec(tiny_bert: Path, glue_folder) -> Spec:
    return Spec(
        task="glue/sst2", data=str(glue_folder("sst2")), model=str(tiny_bert), options={"dim": 12},
        budget=Budget(8.0, 1e-4), batch_size=40, epochs=1, learning_rate=3e-2, max_length=16,
    )  # fmt: skip


class StopAt(Progress):
    """Breaks off after so many steps, as a power cut would after a save."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.path: Path | None = None

    def created(self, path: Path) -> None:
        self.path = path

    def stepped(self, done: int, epsilon: float | None) -> None:
        if done == self.step:
            raise KeyboardInterrupt


class Heard(Progress):
    def __init__(self) -> None:
        self.spent: list[float | None] = []
        self.first: tuple[int, int] | None = None

    def started(self, done: int, steps: int) -> None:
        self.first = (done, steps)

    def stepped(self, done: int, epsilon: float | None) -> None:
        self.spent.append(epsilon)


def test_a_private_run_spends_what_it_planned_and_says_so(spec: Spec, tmp_path: Path) -> None:
    heard = Heard()
    result = train(spec, runs=tmp_path / "runs", machine=FP32, progress=heard)
    run = Run.open(result.path)
    card = json.loads((result.path / "privacy.json").read_text())
    assert result.epsilon is not None
    assert result.epsilon <= 8.0
    assert card["epsilon"] == run.plan.epsilon_upper == result.epsilon
    assert card["steps_charged"] == card["steps_planned"] == run.plan.steps == len(heard.spent)
    assert sorted(heard.spent) == heard.spent
    assert heard.spent[-1] <= result.epsilon
    with Ledger(run.ledger) as book:
        book.verify(card["ledger_head"])
        assert book.charged(run.id) == run.plan.steps
        assert book.is_settled(run.id)


def test_the_plan_is_made_of_the_declared_numbers(spec: Spec, tmp_path: Path) -> None:
    result = train(spec, runs=tmp_path / "runs", machine=FP32)
    plan = Run.open(result.path).plan
    examples = json.loads((result.path / "privacy.json").read_text())["examples"]
    assert plan.rate == 40 / examples
    assert plan.expected_batch == 40
    assert plan.steps == -(-examples // 40)


def test_training_moves_z_and_the_head_and_nothing_else(spec: Spec, tmp_path: Path) -> None:
    # Catches a run that trains nothing, silently, and a backbone that moves without being accounted for.
    first = load(train(spec, runs=tmp_path / "a", machine=FP32).path, machine=FP32)
    second = load(train(spec, runs=tmp_path / "b", machine=FP32).path, machine=FP32)
    for name, tensor in first.adapted.state().items():
        assert not torch.equal(tensor, second.adapted.state()[name]), name  # fresh noise each time
    assert first.adapted.model.digest == second.adapted.model.digest
    trained = {id(p) for p in first.adapted.updated.values()}
    frozen = [(n, p) for n, p in first.adapted.model.named_parameters() if id(p) not in trained]
    others = dict(second.adapted.model.named_parameters())
    assert frozen
    assert all(torch.equal(p, others[name]) for name, p in frozen)


def test_a_loaded_run_gives_the_value_it_was_judged_by(spec: Spec, tmp_path: Path) -> None:
    result = train(spec, runs=tmp_path / "runs", machine=FP32)
    assert load(result.path, machine=FP32).evaluate() == (result.metric, result.value)


def test_predictions_are_probabilities_over_the_tasks_labels(spec: Spec, tmp_path: Path) -> None:
    trained = load(train(spec, runs=tmp_path / "runs", machine=FP32).path, machine=FP32)
    found = trained.predict(["a b c", "", "\x00\ud800"])
    assert [p.label in ("negative", "positive") for p in found] == [True] * 3
    assert all(0.5 <= (p.probability or 0) <= 1 for p in found)
    assert trained.predict([]) == []


@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_pairs_and_scores_train_too(spec: Spec, glue_folder, tmp_path: Path, task: str) -> None:
    values = {**spec.to_json(), "task": f"glue/{task}", "data": str(glue_folder(task))}
    result = train(Spec.from_json(values), runs=tmp_path / "runs", machine=FP32)
    assert np.isfinite(result.value)
    assert load(result.path, machine=FP32).predict(["a b"], ["c d"])


def test_a_run_not_private_learns_what_noise_would_hide_and_says_not_private(spec: Spec, tmp_path: Path) -> None:
    values = {**spec.to_json(), "budget": None, "epochs": 8.0}
    result = train(Spec.from_json(values), runs=tmp_path / "runs", machine=FP32)
    card = (result.path / "privacy.json").read_text()
    assert result.epsilon is None
    assert "NOT PRIVATE" in card
    assert "NOT-PRIVATE" in result.path.name
    assert '"epsilon"' not in card


def test_a_broken_off_run_resumes_with_only_the_steps_still_unspent(spec: Spec, tmp_path: Path) -> None:
    stop = StopAt(3)
    with pytest.raises(KeyboardInterrupt):
        train(spec, runs=tmp_path / "runs", machine=FP32, progress=stop)
    assert stop.path is not None
    heard = Heard()
    result = resume(stop.path, machine=FP32, progress=heard)
    run = Run.open(result.path)
    assert heard.first == (3, run.plan.steps)
    with Ledger(run.ledger) as book:
        assert book.charged(run.id) == run.plan.steps


def test_a_charge_whose_update_was_lost_is_not_spent_again(spec: Spec, tmp_path: Path) -> None:
    # Killed between the charge and the save: the checkpoint is behind the ledger. Catches resuming from the
    # checkpoint's step, which would release that step twice.
    stop = StopAt(3)
    with pytest.raises(KeyboardInterrupt):
        train(spec, runs=tmp_path / "runs", machine=FP32, progress=stop)
    assert stop.path is not None
    run = Run.open(stop.path)
    with Ledger(run.ledger) as book:
        from dpft.privacy.ledger import Event

        book.charge(Event(run.id, 3, run.plan.rate, run.plan.noise))
    heard = Heard()
    resume(stop.path, machine=FP32, progress=heard)
    assert heard.first == (4, run.plan.steps)
    with Ledger(run.ledger) as book:
        assert book.charged(run.id) == run.plan.steps


def test_a_finished_run_resumes_to_its_own_result(spec: Spec, tmp_path: Path) -> None:
    result = train(spec, runs=tmp_path / "runs", machine=FP32)
    with Ledger(Run.open(result.path).ledger) as book:
        head = book.head()
    assert resume(result.path, machine=FP32) == result
    with Ledger(Run.open(result.path).ledger) as book:
        assert book.head() == head


def test_a_resumed_run_notices_an_older_copy_of_its_ledger(spec: Spec, tmp_path: Path) -> None:
    # Catches a rolled back ledger, which would give the spent steps back.
    stop = StopAt(2)
    with pytest.raises(KeyboardInterrupt):
        train(spec, runs=tmp_path / "runs", machine=FP32, progress=stop)
    assert stop.path is not None
    run = Run.open(stop.path)
    for part in run.ledger.parent.glob(run.ledger.name + "*"):
        part.unlink()
    with Ledger(run.ledger) as book:
        plan = run.plan
        book.reserve(run.id, rate=plan.rate, noise=plan.noise, steps=plan.steps, delta=1e-4, epsilon=8.0)
    with pytest.raises(LedgerError, match="expected head"):
        resume(stop.path, machine=FP32)


def test_a_run_unknown_to_its_ledger_does_not_resume(spec: Spec, tmp_path: Path) -> None:
    stop = StopAt(2)
    with pytest.raises(KeyboardInterrupt):
        train(spec, runs=tmp_path / "runs", machine=FP32, progress=stop)
    assert stop.path is not None
    ledger = Run.open(stop.path).ledger
    for part in ledger.parent.glob(ledger.name + "*"):
        part.unlink()
    with pytest.raises(UserError, match="does not know it"):
        resume(stop.path, machine=FP32)


def test_a_plan_with_less_noise_than_was_reserved_does_not_resume(spec: Spec, tmp_path: Path) -> None:
    stop = StopAt(2)
    with pytest.raises(KeyboardInterrupt):
        train(spec, runs=tmp_path / "runs", machine=FP32, progress=stop)
    assert stop.path is not None
    plan = json.loads((stop.path / "plan.json").read_text())
    (stop.path / "plan.json").write_text(json.dumps({**plan, "noise": plan["noise"] / 2}))
    with pytest.raises(LedgerError, match="as reserved"):
        resume(stop.path, machine=FP32)


def test_more_rows_than_before_do_not_resume(spec: Spec, glue_folder, tmp_path: Path) -> None:
    stop = StopAt(2)
    with pytest.raises(KeyboardInterrupt):
        train(spec, runs=tmp_path / "runs", machine=FP32, progress=stop)
    assert stop.path is not None
    import pandas as pd

    file = Path(str(spec.data)) / "train.parquet"
    before = file.read_bytes()
    table = pd.read_parquet(file)
    pd.concat([table, table[:1]]).to_parquet(file)
    try:
        with pytest.raises(UserError, match="as many examples"):
            resume(stop.path, machine=FP32)
    finally:
        file.write_bytes(before)


CHILD = """
import json, sys
from dpft import Machine, Spec, train
train(Spec.from_json(json.loads(sys.argv[1])), runs=sys.argv[2], ledger=sys.argv[3],
      machine=Machine(device="cpu", precision="fp32"))
"""


@pytest.mark.parametrize("after", [0, 4, 11])
def test_killed_at_any_moment_a_run_resumes_within_its_plan(spec: Spec, tmp_path: Path, after: int) -> None:
    # kill -9 as soon as the ledger shows `after` charges, then resume. Catches a ledger that is written late.
    ledger, runs = tmp_path / "kill.sqlite", tmp_path / "runs"
    values = json.dumps({**spec.to_json(), "epochs": 20.0})
    child = subprocess.Popen([sys.executable, "-c", CHILD, values, str(runs), str(ledger)], env=dict(os.environ))
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until and child.poll() is None:
            folders = list(runs.glob("*/run.json"))
            if folders:
                run = Run.open(folders[0].parent)
                with Ledger(ledger) as book:
                    if book.reservation(run.id) is not None and book.charged(run.id) >= after:
                        break
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    run = Run.open(next(runs.glob("*/run.json")).parent)
    with Ledger(ledger) as book:
        spent = book.charged(run.id)
    assert spent < run.plan.steps, "the child finished before it was killed: the test says nothing"
    heard = Heard()
    result = resume(run.path, machine=FP32, progress=heard)
    assert heard.first == (spent, run.plan.steps)
    with Ledger(ledger) as book:
        book.verify()
        assert book.charged(run.id) == run.plan.steps
    assert result.epsilon == run.plan.epsilon_upper


def test_the_run_folder_holds_no_text_and_no_unnoised_value(spec: Spec, tmp_path: Path) -> None:
    # Every file of the folder and every word of stdout is searched for the planted text.
    import pandas as pd

    folder = tmp_path / "data"
    folder.mkdir()
    table = pd.read_parquet(Path(str(spec.data)) / "train.parquet")
    table.loc[0, "sentence"] = "plantedsecret"
    table.to_parquet(folder / "train.parquet")
    pd.read_parquet(Path(str(spec.data)) / "validation.parquet").to_parquet(folder / "validation.parquet")
    values = {**spec.to_json(), "data": str(folder)}
    result = train(Spec.from_json(values), runs=tmp_path / "runs", machine=FP32)
    names = {str(p.relative_to(result.path)) for p in result.path.rglob("*") if p.is_file()}
    assert names == {
        "run.json", "spec.json", "plan.json", "result.json", "privacy.json", "adapter.safetensors",
        "checkpoints/last.safetensors",
    }  # fmt: skip
    assert not any(b"plantedsecret" in (result.path / name).read_bytes() for name in names)
    assert "loss" not in (result.path / "result.json").read_text()


def test_the_adapter_holds_the_trained_numbers_and_neither_projection_nor_backbone(spec: Spec, tmp_path: Path) -> None:
    result = train(spec, runs=tmp_path / "runs", machine=FP32)
    found = Run.open(result.path).read_tensors("adapter")
    assert found is not None
    assert sum(t.numel() for t in found[0].values()) == result.trainable == 12 + 2 * 33
    assert set(found[0]) == {"z", "head.weight", "head.bias"}


def test_a_changed_encoder_is_noticed(spec: Spec, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    copy = tmp_path / "model"
    shutil.copytree(spec.model, copy)
    values = {**spec.to_json(), "model": str(copy)}
    result = train(Spec.from_json(values), runs=tmp_path / "runs", machine=FP32)
    weights = load_file(copy / "model.safetensors")
    first = sorted(weights)[0]
    weights[first] = weights[first] + 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="must be the one of the run"):
        load(result.path, machine=FP32)


def test_micro_batches_change_speed_and_not_the_plan(spec: Spec, tmp_path: Path) -> None:
    plans = [
        Run.open(
            train(
                spec, runs=tmp_path / str(t), machine=Machine(device="cpu", precision="fp32", tokens_per_microbatch=t)
            ).path
        ).plan
        for t in (1, 64)
    ]
    assert plans[0] == plans[1]
