"""The whole line on a tiny model: train, kill, resume, load, repeat."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from dpft import Budget, Machine, Spec, UserError, load, resume, train
from dpft.inference.build import build_model, resolve_hardware
from dpft.privacy.ledger import Event, Ledger, LedgerError
from dpft.progress import Progress
from dpft.runs import overlap
from dpft.runs.folder import Run
from dpft.runs.privacy_card import rounded_up
from dpft.runs.result import Result
from tests.conftest import write_glue
from tests.stopping import StopAt

FP32 = Machine(device="cpu", precision="fp32")


def spec_of(model: Path, data: Path) -> Spec:
    return Spec(
        task="glue/sst2", data=str(data), model=str(model), options={"dim": 12},
        budget=Budget(8.0, 1e-4), batch_size=40, epochs=1, learning_rate=3e-2, max_length=16,
    )  # fmt: skip


@pytest.fixture
def spec(tiny_bert: Path, glue_folder) -> Spec:
    return spec_of(tiny_bert, glue_folder("sst2"))


class Heard(Progress):
    def __init__(self) -> None:
        self.spent: list[float | None] = []
        self.first: tuple[int, int] | None = None

    def started(self, done: int, steps: int) -> None:
        self.first = (done, steps)

    def stepped(self, done: int, epsilon: float | None) -> None:
        self.spent.append(epsilon)


@pytest.fixture(scope="module")
def finished(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Heard]:
    """A finished private run, and what its progress heard. It is read alone: who changes one trains its own."""
    home, heard = tmp_path_factory.mktemp("finished"), Heard()
    rows = spec_of(tiny_bert, write_glue(home / "data"))
    return train(rows, runs=home / "runs", ledger=home / "ledger.sqlite", machine=FP32, progress=heard), heard


def test_a_private_run_spends_what_it_planned_and_says_so(finished: tuple[Result, Heard]) -> None:
    result, heard = finished
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


def test_the_plan_is_made_of_the_declared_numbers(finished: tuple[Result, Heard]) -> None:
    result, _ = finished
    plan = Run.open(result.path).plan
    examples = json.loads((result.path / "privacy.json").read_text())["units"]
    assert plan.rate == 40 / examples
    assert plan.expected_batch == 40
    assert plan.steps == -(-examples // 40)


def test_training_moves_z_and_the_head_and_nothing_else(
    finished: tuple[Result, Heard], spec: Spec, tmp_path: Path
) -> None:
    # Catches a run that trains nothing, silently, and a backbone that moves without being accounted for.
    first = load(finished[0].path, machine=FP32)
    second = load(train(spec, runs=tmp_path / "runs", machine=FP32).path, machine=FP32)
    for name, tensor in first.adapted.updated.items():
        assert not torch.equal(tensor, second.adapted.updated[name]), name  # fresh noise each time
    assert first.adapted.model.digest == second.adapted.model.digest
    trained = {id(p) for p in first.adapted.updated.values()}
    frozen = [(n, p) for n, p in first.adapted.model.named_parameters() if id(p) not in trained]
    others = dict(second.adapted.model.named_parameters())
    assert frozen
    assert all(torch.equal(p, others[name]) for name, p in frozen)


@pytest.mark.parametrize(("rate", "head", "still"), [(1e-12, 0.1, ("z",)), (0.1, 1e-12, ("head.weight", "head.bias"))])
def test_the_head_and_the_rest_train_by_their_own_rates(
    spec: Spec, tmp_path: Path, rate: float, head: float, still: tuple[str, ...]
) -> None:
    # Catches a head rate that is written down and not used. Without a rate they stay where the seed puts them.
    spec = replace(spec, learning_rate=rate, head_learning_rate=head)
    before = build_model(spec, 2, False, resolve_hardware(spec, FP32)).adapted.updated
    after = load(train(spec, runs=tmp_path / "runs", machine=FP32).path, machine=FP32).adapted.updated
    assert {name for name in after if torch.allclose(after[name], before[name], atol=1e-9)} == set(still)


def test_a_loaded_run_gives_the_value_it_was_evaluated_to(finished: tuple[Result, Heard]) -> None:
    result, _ = finished
    assert load(result.path, machine=FP32).evaluate() == (result.metric, result.value)


def test_predictions_are_probabilities_over_the_tasks_labels(finished: tuple[Result, Heard]) -> None:
    trained = load(finished[0].path, machine=FP32)
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
    heard = Heard()
    result = resume(stop.path, machine=FP32, progress=heard)
    run = Run.open(result.path)
    assert heard.first == (3, run.plan.steps)
    with Ledger(run.ledger) as book:
        assert book.charged(run.id) == run.plan.steps


def test_a_run_killed_at_its_reservation_resumes(spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a reserved budget that nothing can train on any more."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "reserved", killed)
        with pytest.raises(KeyboardInterrupt):
            train(spec, runs=tmp_path / "runs", ledger=tmp_path / "ledger", machine=FP32)
    (path,) = (tmp_path / "runs").iterdir()
    assert not (path / "run.json").exists()
    (tmp_path / "ledger").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="resumes with its ledger"):
        resume(path, machine=FP32)
    with Ledger(tmp_path / "ledger"), pytest.raises(UserError, match="nothing of it is spent"):
        resume(path, machine=FP32)
    (tmp_path / "elsewhere").rename(tmp_path / "ledger")
    sound = (path / "intent.json").read_text()
    (path / "intent.json").write_text(sound.replace('"steps": 10', '"steps": 11'))
    with pytest.raises(UserError, match="got another plan"):
        resume(path, machine=FP32)
    (path / "intent.json").write_text(sound)
    run = Run.open(resume(path, machine=FP32).path)
    with Ledger(run.ledger) as book:
        assert book.charged(run.id) == run.plan.steps
        assert book.is_settled(run.id)
    assert run.read_json("task") is not None
    assert not (path / "intent.json").exists()


def test_a_charge_whose_update_was_lost_is_not_spent_again(spec: Spec, tmp_path: Path) -> None:
    # Killed between the charge and the save: the checkpoint is behind the ledger. Catches resuming from the
    # checkpoint's step, which would release that step twice.
    stop = StopAt(3)
    with pytest.raises(KeyboardInterrupt):
        train(spec, runs=tmp_path / "runs", machine=FP32, progress=stop)
    run = Run.open(stop.path)
    with Ledger(run.ledger) as book:
        book.charge(Event(run.id, 3, run.plan.rate, run.plan.noise))
    heard = Heard()
    resume(stop.path, machine=FP32, progress=heard)
    assert heard.first == (4, run.plan.steps)
    with Ledger(run.ledger) as book:
        assert book.charged(run.id) == run.plan.steps


def test_a_finished_run_resumes_to_its_own_result(finished: tuple[Result, Heard]) -> None:
    result, _ = finished
    with Ledger(Run.open(result.path).ledger) as book:
        head = book.head()
    assert resume(result.path, machine=FP32) == result
    with Ledger(Run.open(result.path).ledger) as book:
        assert book.head() == head


def broken_off(spec: Spec, tmp_path: Path, step: int = 2) -> Path:
    """The folder of a run that was stopped after `step` steps."""
    stop = StopAt(step)
    with pytest.raises(KeyboardInterrupt):
        train(spec, runs=tmp_path / "runs", machine=FP32, progress=stop)
    return stop.path


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_resumed_run_notices_an_older_copy_of_its_ledger(spec: Spec, tmp_path: Path) -> None:
    # Catches a rolled back ledger, which would give the spent steps back: with its checkpoint, by the
    # checkpoint's head; without, by the head kept at the reservation.
    path = broken_off(spec, tmp_path)
    run = Run.open(path)
    for part in run.ledger.parent.glob(run.ledger.name + "*"):
        part.unlink()
    plan = run.plan
    with Ledger(run.ledger) as book:
        book.reserve("another", rate=plan.rate, noise=plan.noise, steps=plan.steps, delta=1e-4, epsilon=8.0)
        assert plan.epsilon_upper is not None
        book.reserve(run.id, rate=plan.rate, noise=plan.noise, steps=plan.steps, delta=1e-4, epsilon=plan.epsilon_upper)
    with pytest.raises(LedgerError, match="expected head"):
        resume(path, machine=FP32)
    shutil.rmtree(path / "checkpoints")
    with pytest.raises(LedgerError, match="expected head"):
        resume(path, machine=FP32)


def test_a_run_without_its_ledger_does_not_resume_and_makes_none(spec: Spec, tmp_path: Path) -> None:
    path = broken_off(spec, tmp_path)
    ledger = Run.open(path).ledger
    for part in ledger.parent.glob(ledger.name + "*"):
        part.unlink()
    with pytest.raises(UserError, match="resumes with its ledger"):
        resume(path, machine=FP32)
    assert not ledger.exists()


def test_a_run_unknown_to_its_ledger_does_not_resume(spec: Spec, tmp_path: Path) -> None:
    path = broken_off(spec, tmp_path)
    edit(path / "run.json", id="0" * 32)
    with pytest.raises(UserError, match="a ledger without it"):
        resume(path, machine=FP32)


def test_a_plan_other_than_the_reserved_one_does_not_resume(spec: Spec, tmp_path: Path) -> None:
    # Catches a label taken from plan.json on trust.
    path = broken_off(spec, tmp_path)
    sound = (path / "plan.json").read_text()
    plan = json.loads(sound)
    for changes in ({"noise": plan["noise"] / 2}, {"epsilon_upper": plan["epsilon_upper"] / 2}, {"steps": 15}):
        (path / "plan.json").write_text(sound)
        edit(path / "plan.json", **changes)
        with pytest.raises(UserError, match="as it was reserved"):
            resume(path, machine=FP32)
    (path / "plan.json").write_text(sound)
    for name in ("plan.json", "spec.json"):
        edit(path / name, budget={"epsilon": 8.0, "delta": 1e-9})
    with pytest.raises(UserError, match="as it was reserved"):
        resume(path, machine=FP32)


def test_a_plan_for_another_budget_than_the_specs_is_refused(spec: Spec, tmp_path: Path) -> None:
    path = broken_off(spec, tmp_path)
    edit(path / "plan.json", budget={"epsilon": 9.0, "delta": 1e-4})
    with pytest.raises(UserError, match="for its spec's budget"):
        resume(path, machine=FP32)


def test_a_checkpoint_without_noise_does_not_get_a_private_label(spec: Spec, tmp_path: Path) -> None:
    # Catches a non-private run's checkpoint copied into a private run's folder, which resumed with its label.
    private = broken_off(spec, tmp_path / "a")
    bare = broken_off(Spec.from_json({**spec.to_json(), "budget": None}), tmp_path / "b")
    shutil.copy(bare / "checkpoints" / "last.safetensors", private / "checkpoints" / "last.safetensors")
    with pytest.raises(UserError, match="of this very run"):
        resume(private, machine=FP32)


def test_a_run_turned_non_private_half_way_and_back_does_not_resume(spec: Spec, tmp_path: Path) -> None:
    path = broken_off(spec, tmp_path)
    edit(path / "spec.json", budget=None)
    edit(path / "plan.json", budget=None, noise=0.0, clip=None, epsilon_upper=None, accountant=None)
    with pytest.raises(UserError, match="of this very run"):
        resume(path, machine=FP32)


def test_a_run_not_private_makes_no_ledger(spec: Spec, tmp_path: Path) -> None:
    train(Spec.from_json({**spec.to_json(), "budget": None}), runs=tmp_path / "r", ledger=tmp_path / "l", machine=FP32)
    assert not (tmp_path / "l").exists()


def test_a_run_whose_reservation_fails_leaves_no_folder(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Ledger):
        def reserve(self, *_args: object, **_terms: object) -> None:
            raise LedgerError("a ledger needs room, got a full disk; make room")

    monkeypatch.setattr("dpft.runs.ledger_charges.Ledger", Full)
    with pytest.raises(LedgerError, match="full disk"):
        train(spec, runs=tmp_path / "runs", machine=FP32)
    assert not list((tmp_path / "runs").glob("*"))


def test_a_model_that_diverged_is_judged_zero_and_its_run_finishes(spec: Spec, glue_folder, tmp_path: Path) -> None:
    # Catches a NaN metric, which JSON refuses after the whole budget is charged.
    values = {**spec.to_json(), "task": "glue/stsb", "data": str(glue_folder("stsb")), "learning_rate": 100.0}
    values = {**values, "optimizer": "sgd", "budget": None, "epochs": 3.0}
    result = train(Spec.from_json(values), runs=tmp_path / "runs", machine=FP32)
    assert np.isfinite(result.value)


def test_the_printed_epsilon_is_never_below_the_proven_one(finished: tuple[Result, Heard]) -> None:
    # Catches rounding to the nearest: 6.69791 printed as 6.697.
    assert rounded_up(6.69791) == "6.698"
    assert rounded_up(7.0) == "7.000" or float(rounded_up(7.0)) == 7.0
    assert all(float(rounded_up(x)) >= x for x in np.geomspace(1e-6, 1e3, 500))
    card = json.loads((finished[0].path / "privacy.json").read_text())
    assert float(card["statement"][1:].partition(",")[0]) >= card["epsilon"]


def test_more_rows_than_before_do_not_resume(spec: Spec, tmp_path: Path) -> None:
    path = broken_off(spec, tmp_path)
    file = Path(str(spec.data)) / "train.parquet"
    table = pd.read_parquet(file)
    pd.concat([table, table[:1]]).to_parquet(file)
    with pytest.raises(UserError, match="as many examples"):
        resume(path, machine=FP32)


CHILD = """
import json, sys
from dpft import Machine, Spec, train
train(Spec.from_json(json.loads(sys.argv[1])), runs=sys.argv[2], ledger=sys.argv[3],
      machine=Machine(device="cpu", precision="fp32"))
"""


@pytest.mark.slow  # tests/training/test_killed.py kills at every named point
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
        "run.json", "spec.json", "plan.json", "task.json", "result.json", "privacy.json", "adapter.safetensors",
        "checkpoints/last.safetensors", "private/rows.json", "recipe.json",
    }  # fmt: skip
    assert not any(b"plantedsecret" in (result.path / name).read_bytes() for name in names)
    assert "loss" not in (result.path / "result.json").read_text()


def test_the_adapter_holds_the_trained_numbers_and_neither_projection_nor_backbone(
    finished: tuple[Result, Heard],
) -> None:
    result, _ = finished
    found = Run.open(result.path).read_tensors("adapter")
    assert found is not None
    public = {name: found[0].pop(name) for name in ("head.center", "head.spread")}
    assert [t.shape for t in public.values()] == [(32,), (32,)]
    assert set(found[0]) == {"z", "head.weight", "head.bias"}
    assert sum(t.numel() for t in found[0].values()) == result.trainable == 12 + 2 * 33


def test_a_changed_encoder_is_noticed(spec: Spec, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("private", "killed"), [(True, "in the middle"), (True, "at its reservation"), (False, "in the middle")]
)
def test_a_run_resumes_on_its_own_rows_alone(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str, private: bool
) -> None:
    """Catches: as many rows of other people, trained on and charged to nobody, rows that only changed their labels,
    and rows in another order.
    """
    spec = spec if private else replace(spec, budget=None)
    if killed == "in the middle":
        path = broken_off(spec, tmp_path)
    else:
        with monkeypatch.context() as patched:
            patched.setattr("dpft.training.train.complete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                train(spec, runs=tmp_path / "runs", machine=FP32)
        (path,) = (tmp_path / "runs").iterdir()
        shutil.rmtree(path / "private")  # as if killed before it was written
    kept = pd.read_parquet(Path(str(spec.data)) / "train.parquet")
    for others in (
        kept.assign(sentence="somebody else: " + kept["sentence"]), kept.assign(label=1 - kept["label"]),
        kept.iloc[::-1],
    ):  # fmt: skip
        others.to_parquet(Path(str(spec.data)) / "train.parquet")
        with pytest.raises(UserError, match="training rows that it began with"):
            resume(path, machine=FP32)
        if private:
            with Ledger(Run.open(path).ledger) as book:
                assert book.charged(Run.open(path).id) == (2 if killed == "in the middle" else 0)
    kept.to_parquet(Path(str(spec.data)) / "train.parquet")
    assert resume(path, machine=FP32).steps > 0


def test_a_run_resumes_with_its_own_encoder_also_before_its_first_checkpoint(spec: Spec, tmp_path: Path) -> None:
    """Catches: another model's weights under the same name, where no checkpoint tells yet."""
    model = tmp_path / "model"
    shutil.copytree(spec.model, model)
    path = broken_off(replace(spec, model=str(model)), tmp_path, 0)
    shutil.rmtree(path / "checkpoints", ignore_errors=True)
    kept = (model / "model.safetensors").read_bytes()
    tensors = load_file(model / "model.safetensors")
    save_file({name: tensor + 0.5 for name, tensor in tensors.items()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="encoder it began with"):
        resume(path, machine=FP32)
    (model / "model.safetensors").write_bytes(kept)
    assert resume(path, machine=FP32).steps > 0


def test_a_reservation_that_names_no_rows_is_not_resumed(spec: Spec, tmp_path: Path, monkeypatch: Any) -> None:
    """Catches: "got others" about the right rows of a run that an earlier version reserved; or any rows taken."""
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "keyed", lambda *_: None)
        path = broken_off(spec, tmp_path)
    with pytest.raises(UserError, match="got one of an earlier version"):
        resume(path, machine=FP32)


def test_rows_that_are_judged_by_and_trained_on_are_told(spec: Spec, tmp_path: Path) -> None:
    """Catches: un-noised figures of training rows above a promise that says nothing of it."""
    folder, notes = Path(str(spec.data)), []
    train_file, judged_file = folder / "train.parquet", folder / "validation.parquet"
    apart = pd.read_parquet(judged_file).assign(sentence=lambda rows: "apart " + rows["sentence"])

    class Notes(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    for rows, shared in ((apart, False), (pd.concat([apart, pd.read_parquet(train_file).iloc[:1]]), True)):
        notes.clear()
        rows.to_parquet(judged_file)
        done = train(spec, runs=tmp_path / "runs", machine=FP32, progress=Notes())
        card = json.loads((done.path / "privacy.json").read_text())
        assert (overlap.NOTE in notes, overlap.NOTE in card["does_not_cover"]) == (shared, shared)
