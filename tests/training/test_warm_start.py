"""`--from RUN`: a run that begins with another's weights, and what its card says of them."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from dpft import Budget, Machine, Spec, UserError, load, resume, train
from dpft.runs.folder import Run
from tests.stopping import StopAt

FP32 = Machine(device="cpu", precision="fp32")
Folder = Callable[..., Path]


@pytest.fixture
def spec(tiny_bert: Path, glue_folder: Folder) -> Spec:
    return Spec(
        task="glue/mrpc", data=str(glue_folder("mrpc")), model=str(tiny_bert), method="warp", options={"tokens": 3},
        batch_size=40, epochs=1, learning_rate=3e-2, max_length=16,
    )  # fmt: skip


def others(folder: Path) -> str:
    """The folder of a task, with texts that no other task has."""
    for file in folder.iterdir():
        rows = pd.read_parquet(file)
        marked = {name: f"{folder.name} " + rows[name] for name in ("sentence1", "sentence2") if name in rows}
        rows.assign(**marked).to_parquet(file)
    return str(folder)


def card(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "privacy.json").read_text())
    return found


def test_a_second_stage_begins_with_the_first_ones_tensors_also_when_it_is_resumed(
    spec: Spec, glue_folder: Folder, tmp_path: Path
) -> None:
    """Catches: tensors that are read and not put; a resume from step 0 that begins from nothing."""
    first = train(spec, runs=tmp_path / "runs", machine=FP32)
    second = replace(spec, task="glue/rte", data=str(glue_folder("rte", seed=1)), start=str(first.path),
                     learning_rate=1e-12)  # fmt: skip
    stop = StopAt(0)
    with pytest.raises(KeyboardInterrupt):
        train(second, runs=tmp_path / "runs", machine=FP32, progress=stop)
    done = resume(stop.path, machine=FP32)
    before, after = (load_file(run / "adapter.safetensors") for run in (first.path, done.path))
    torch.testing.assert_close(after["prompt"], before["prompt"], atol=1e-9, rtol=0)
    assert not torch.allclose(after["head.weight"], before["head.weight"], atol=1e-3)  # MRPC's labels are not RTE's
    assert json.loads((done.path / "start.json").read_text())["head_taken"] is False
    load(done.path)


def test_the_head_is_taken_where_the_labels_agree(spec: Spec, glue_folder: Folder, tmp_path: Path) -> None:
    first = train(spec, runs=tmp_path / "runs", machine=FP32)
    second = replace(spec, data=others(glue_folder("mrpc", seed=1)), start=str(first.path), learning_rate=1e-9)
    done = train(second, runs=tmp_path / "runs", machine=FP32)
    for name, tensor in load_file(first.path / "adapter.safetensors").items():
        torch.testing.assert_close(load_file(done.path / "adapter.safetensors")[name], tensor, atol=1e-6, rtol=0)


def test_the_card_names_a_start_without_privacy_one_of_another_population_and_one_of_the_same(
    spec: Spec, glue_folder: Folder, tmp_path: Path
) -> None:
    own, other = replace(spec, budget=Budget(8.0, 1e-4)), others(glue_folder("mrpc", seed=1))
    runs = tmp_path / "runs"
    bare = train(replace(spec, data=other), runs=runs, machine=FP32)
    from_bare = train(replace(own, start=str(bare.path)), runs=runs, machine=FP32)
    said = card(from_bare.path)
    assert said["start"]["private"] is False
    assert "no privacy for its own data" in said["start"]["statement"]
    assert said["population"]["runs"] == 1
    again = train(replace(own, start=str(from_bare.path)), runs=runs, machine=FP32)
    said = card(again.path)
    assert said["start"]["same_population"] is True
    assert said["population"]["runs"] == 2
    assert said["start"]["start"]["private"] is False  # nothing of the line is forgotten
    third = replace(own, data=others(glue_folder("mrpc", seed=2)), start=str(again.path))
    elsewhere = train(third, runs=runs, machine=FP32)
    said = card(elsewhere.path)
    assert said["start"]["same_population"] is False
    assert "second population" in said["start"]["statement"]


def test_a_private_run_never_starts_from_what_saw_its_rows_uncharged(spec: Spec, tmp_path: Path) -> None:
    """Catches: a label of (8, 1e-4) on weights that were trained on the same rows without noise."""
    runs, own = tmp_path / "runs", replace(spec, budget=Budget(8.0, 1e-4))
    bare = train(spec, runs=runs, machine=FP32)
    with pytest.raises(UserError, match="NOT PRIVATE on the same data"):
        train(replace(own, start=str(bare.path)), runs=runs, machine=FP32)
    charged = train(own, runs=runs, machine=FP32)
    with pytest.raises(UserError, match="same ledger"):
        train(replace(own, start=str(charged.path)), runs=runs, machine=FP32, ledger=tmp_path / "other.sqlite")
    assert sum(1 for run in runs.iterdir()) == 2


def test_a_start_exchanged_before_the_first_step_is_looked_at_again(
    spec: Spec, glue_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a run killed at its reservation that resumes from what saw its rows uncharged."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    latest, runs = tmp_path / "latest", tmp_path / "runs"
    sound = train(replace(spec, data=others(glue_folder("mrpc", seed=1))), runs=tmp_path / "others", machine=FP32).path
    seen = train(spec, runs=tmp_path / "others", machine=FP32).path
    latest.symlink_to(sound)
    with monkeypatch.context() as patched:
        patched.setattr(Run, "reserved", killed)
        with pytest.raises(KeyboardInterrupt):
            train(replace(spec, budget=Budget(8.0, 1e-4), start=str(latest)), runs=runs, machine=FP32)
    (path,) = runs.iterdir()
    latest.unlink()
    latest.symlink_to(seen)
    with pytest.raises(UserError, match="NOT PRIVATE on the same data"):
        resume(path, machine=FP32)
    latest.unlink()
    latest.symlink_to(sound)
    assert "no privacy for its own data" in card(resume(path, machine=FP32).path)["start"]["statement"]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"method": "bitfit", "options": {}}, "same method"),
        ({"options": {"tokens": 4}}, "same options"),
        ({"seed": 1}, "same seed"),
        ({"model": "tiny_roberta"}, "same encoder"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_in_one_line(
    spec: Spec, tmp_path: Path, change: dict[str, Any], rule: str, request: pytest.FixtureRequest
) -> None:
    first = train(spec, runs=tmp_path / "runs", machine=FP32)
    if "model" in change:
        change = {"model": str(request.getfixturevalue(change["model"]))}
    with pytest.raises(UserError, match=rule) as caught:
        train(replace(spec, start=str(first.path), **change), runs=tmp_path / "runs", machine=FP32)
    assert "\n" not in str(caught.value)
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_an_unfinished_or_foreign_start_is_refused(spec: Spec, tmp_path: Path) -> None:
    stop = StopAt(0)
    with pytest.raises(KeyboardInterrupt):
        train(spec, runs=tmp_path / "runs", machine=FP32, progress=stop)
    with pytest.raises(UserError, match="must be finished"):
        train(replace(spec, start=str(stop.path)), runs=tmp_path / "more", machine=FP32)
    with pytest.raises(UserError, match="run"):
        train(replace(spec, start=str(tmp_path)), runs=tmp_path / "more", machine=FP32)
    assert not (tmp_path / "more").exists()


def moved(spec: Spec) -> Spec:
    """The same rows under another name, as `spec` then has them; the old file is gone."""
    folder = Path(str(spec.data))
    return replace(spec, data=str(folder.rename(folder.with_name("renamed"))))


def test_a_start_is_known_to_have_seen_the_rows_wherever_their_file_went(spec: Spec, tmp_path: Path) -> None:
    """Catches: rows that cannot be read under their old name counted as other people's. A run in between forgets
    nothing, though its own start is gone.
    """
    runs = tmp_path / "runs"
    bare = train(spec, runs=runs, machine=FP32)
    own = replace(moved(spec), budget=Budget(8.0, 1e-4))
    with pytest.raises(UserError, match="NOT PRIVATE on the same data"):
        train(replace(own, start=str(bare.path)), runs=runs, machine=FP32)
    with pytest.raises(UserError, match="NOT PRIVATE on the same data"):
        train(replace(own, start=str(bare.path), start_public=True), runs=runs, machine=FP32)


def test_what_a_start_saw_is_known_through_the_runs_in_between(spec: Spec, glue_folder: Folder, tmp_path: Path) -> None:
    """Catches: a line of starts that ends where one of them was deleted."""
    bare = train(spec, runs=tmp_path / "first", machine=FP32)
    other = replace(spec, data=others(glue_folder("mrpc", seed=1)), start=str(bare.path))
    between = train(other, runs=tmp_path / "second", machine=FP32)
    shutil.rmtree(tmp_path / "first")
    with pytest.raises(UserError, match="NOT PRIVATE on the same data"):
        train(replace(spec, start=str(between.path), budget=Budget(8.0, 1e-4)), runs=tmp_path / "third", machine=FP32)


def test_a_start_of_which_nothing_is_known_must_be_stated_to_be_of_other_people(
    spec: Spec, glue_folder: Folder, tmp_path: Path
) -> None:
    """Catches: a start without its private/ folder taken for other people's in silence, and a card that does not say
    whose word it is."""
    bare = train(replace(spec, data=others(glue_folder("mrpc", seed=1))), runs=tmp_path / "runs", machine=FP32)
    shutil.rmtree(bare.path / "private")
    own = replace(spec, budget=Budget(8.0, 1e-4), start=str(bare.path))
    with pytest.raises(UserError, match="--from-public RUN"):
        train(own, runs=tmp_path / "runs", machine=FP32)
    done = train(replace(own, start_public=True), runs=tmp_path / "runs", machine=FP32)
    said = card(done.path)["start"]
    assert said["stated_public"] is True
    assert "by the word of whoever started this run (--from-public)" in said["statement"]
    with pytest.raises(UserError, match="--from-public RUN"):
        train(replace(own, start=str(done.path)), runs=tmp_path / "runs", machine=FP32)


def test_what_a_run_saw_is_readable_by_its_owner_alone(spec: Spec, tmp_path: Path) -> None:
    """Catches: a sketch and its key that anybody on the machine can read, from the first byte on."""
    before = os.umask(0)
    try:
        done = train(replace(spec, budget=Budget(8.0, 1e-4)), runs=tmp_path / "runs", machine=FP32)
    finally:
        os.umask(before)
    kept = done.path / "private"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert [(path.name, stat.S_IMODE(path.stat().st_mode)) for path in kept.iterdir()] == [("rows.json", 0o600)]


def test_an_evaluation_on_training_rows_is_told(spec: Spec, tmp_path: Path) -> None:
    """Catches: figures without noise on the protected rows, printed as any others."""
    done = train(replace(spec, budget=Budget(8.0, 1e-4)), runs=tmp_path / "runs", machine=FP32)
    folder = tmp_path / "again"
    shutil.copytree(str(spec.data), folder)
    shutil.copy(folder / "train.parquet", folder / "validation.parquet")
    trained = load(done.path, machine=FP32)
    assert trained.saw(str(folder))
    for file in folder.iterdir():
        rows = pd.read_parquet(file)
        rows.assign(**{name: "apart " + rows[name] for name in rows if rows[name].dtype != "int64"}).to_parquet(file)
    assert not trained.saw(str(folder))


def test_a_start_that_saw_a_few_of_the_rows_is_refused_or_stated(
    spec: Spec, glue_folder: Folder, tmp_path: Path
) -> None:
    """Catches: fewer shared records than join two populations, taken for none: to these people nothing is promised."""
    folder = Path(others(glue_folder("mrpc", seed=1)))
    theirs, own = (pd.read_parquet(Path(data) / "train.parquet") for data in (folder, str(spec.data)))
    pd.concat([theirs.iloc[4:], own.iloc[:4]]).to_parquet(folder / "train.parquet")
    bare = train(replace(spec, data=str(folder)), runs=tmp_path / "runs", machine=FP32)
    wanted = replace(spec, budget=Budget(8.0, 1e-4), start=str(bare.path))
    with pytest.raises(UserError, match="shares some texts"):
        train(wanted, runs=tmp_path / "runs", machine=FP32)
    done = train(replace(wanted, start_public=True), runs=tmp_path / "runs", machine=FP32)
    assert "by the word of whoever started this run" in card(done.path)["start"]["statement"]
