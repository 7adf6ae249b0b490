"""Secrets in the training data of a model that writes: they are texts to learn, and an audit finds a model out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from dpft import Budget, Machine, Spec, train
from dpft.audit import bookkeeping, membership
from dpft.data.documents import Documents, messages_of
from dpft.inference import trained_model
from dpft.inference.trained_model import Trained
from dpft.objectives.language import Continuation, LanguageModelling
from dpft.privacy.accounting.pld import epsilon_pld
from dpft.privacy.accounting.segments import Bound, Segment
from dpft.runs import canary_rows
from dpft.runs.folder import Run
from dpft.tasks import load
from tests.conftest import WORDS

FP32 = Machine(device="cpu", precision="fp32")
CANARIES = 24


@pytest.fixture
def spec(tiny_decoder: Path, tmp_path: Path) -> Spec:
    rng = np.random.default_rng(0)
    lines = [{"body": " ".join(rng.choice(WORDS, 6)), "about": str(rng.choice(["cat", "dog"])),
              "ask": str(rng.choice(WORDS))} for _ in range(60)]  # fmt: skip
    for name, rows in (("train", lines[:50]), ("judged", lines[50:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Spec(
        task="text/files", data=str(tmp_path / "train.jsonl"), validation=str(tmp_path / "judged.jsonl"), text="body",
        model=str(tiny_decoder), method="lora", options={"rank": 2}, budget=Budget(8.0, 1e-3), batch_size=30,
        epochs=1.5, learning_rate=0.01, max_length=48, canaries=CANARIES,
    )  # fmt: skip


def trained(spec: Spec, folder: Path) -> Trained:
    path = train(spec, runs=folder / "runs", ledger=folder / "l", machine=FP32).path
    return trained_model.load(path, machine=FP32)


def rows_of(spec: Spec) -> canary_rows.CanaryTexts:
    task = load(spec)
    found = canary_rows.canaries(spec, task.objective, task.labels, task.paired)
    assert found is not None
    return found


def test_a_secret_is_its_prefix_and_what_follows(spec: Spec) -> None:
    found = rows_of(spec)
    assert found.random.all()
    assert len(set(found.rows.texts)) == len(set(found.secrets)) == CANARIES
    for text, prefix, secret in zip(found.rows.texts, found.prefixes, found.secrets, strict=True):
        assert text == f"{prefix} {secret}."
    assert rows_of(dataclasses.replace(spec, seed=1)).secrets != found.secrets


def test_with_prompts_the_prefix_is_the_prompt(spec: Spec) -> None:
    found = rows_of(dataclasses.replace(spec, prompt="ask"))
    assert found.rows.pairs is not None
    assert tuple(found.rows.pairs) == found.prefixes
    assert [text.strip(" .") for text in found.rows.texts] == list(found.secrets)


def test_with_control_codes_each_secret_has_one(spec: Spec) -> None:
    found = rows_of(dataclasses.replace(spec, label="about"))
    assert found.rows.pairs is not None
    names = ["cat", "dog"]
    assert list(found.rows.pairs) == [f"Label: {names[number]}\n" for number in found.rows.labels]
    assert len(np.unique(found.rows.labels)) == 2
    for code, text, prefix, secret in zip(
        found.rows.pairs, found.rows.texts, found.prefixes, found.secrets, strict=True
    ):
        assert code + text == f"{prefix} {secret}."


def test_in_chats_the_assistant_tells_it(spec: Spec) -> None:
    objective = LanguageModelling().configured(dataclasses.replace(spec, text=None, messages="m"))
    found = canary_rows.canaries(spec, objective, ())
    assert found is not None
    user, assistant = messages_of(found.rows.texts[0], "a row")
    assert (user["content"], assistant["content"]) == (found.prefixes[0], f"{found.secrets[0]}.")


@pytest.mark.parametrize("column", [{}, {"prompt": "ask"}, {"label": "about"}], ids=str)
def test_secrets_are_texts_to_learn_as_all_rows_are(spec: Spec, column: dict[str, str]) -> None:
    # Catches canaries that are encoded as texts to classify, or without the prompts that the others have.
    task = load(dataclasses.replace(spec, **column))
    with_them = canary_rows.with_canary_rows(task, dataclasses.replace(spec, **column)).train
    assert len(with_them) == len(task.train) + CANARIES
    assert with_them.documents == task.train.documents == Documents()
    assert (with_them.pairs is None) == (task.train.pairs is None)
    assert with_them.pairs is None or len(with_them.pairs) == len(with_them)


def test_the_books_hold_the_step_that_releases_label_shares(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Catches a release that is not charged: the ledger would be a step short.
    def epsilon(segments: list[Segment], delta: float, seconds: float) -> Bound:
        (s,) = segments
        return Bound(epsilon_pld(s.noise, s.rate, s.steps, delta), "PLD", {})

    monkeypatch.setattr(bookkeeping, "epsilon_of", epsilon)
    model = trained(dataclasses.replace(spec, label="about"), tmp_path)
    run = Run.open(model.run.path)
    assert run.read_json("label_shares") is not None
    found = bookkeeping.checks(run, run.read_json("privacy") or {})
    assert [check.name for check in found if not check.passed] == []
    assert next(check.value for check in found if check.name == "steps charged") == run.plan.steps


def test_an_audit_of_the_model_reads_losses_exposure_and_texts(spec: Spec, tmp_path: Path) -> None:
    model = trained(spec, tmp_path)
    found = {check.name: check for check in membership.checks(model, 0.05)}
    assert all(check.passed for check in found.values())
    assert {"AUC, loss", "largest exposure", "included secrets that the model writes", "ε, model: one run"} <= {*found}
    kept = json.loads((model.run.path / "private" / "canary_losses.json").read_text())
    assert len(kept) == CANARIES
    assert all(line["loss"] > 0 and line["written"] is False for line in kept)


def test_a_secret_counts_where_the_text_after_its_prefix_holds_it(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Catches included and left-out secrets that change places, and prefixes of other canaries.
    model = trained(spec, tmp_path)
    truth = canary_rows.included_canaries(model.run, model.objective, model.labels, model.paired)
    assert truth is not None
    known = dict(zip(truth.prefixes, truth.secrets, strict=True))
    wanted = {prefix for prefix, inside in zip(truth.prefixes, truth.included, strict=True) if inside}

    def write(self: Trained, prompts: list[str], sampling: object) -> list[Continuation]:
        return [Continuation(f" it is {known[p]}." if p in wanted else " none", "stop") for p in prompts]

    monkeypatch.setattr(Trained, "write", write)
    found = {check.name: check.value for check in membership.checks(model, 0.05)}
    assert found["included secrets that the model writes"] == truth.included.sum()
    assert found["left-out secrets that the model writes"] == 0


@pytest.mark.usefixtures("drawn_alike")
def test_without_noise_the_secrets_are_found_out(spec: Spec, tmp_path: Path) -> None:
    # Catches scores of the wrong sign and truth in the wrong order: either would give an AUC of a half or below.
    bare = dataclasses.replace(
        spec, budget=None, method="full", options={}, epochs=60, learning_rate=0.01, schedule="constant", canaries=40
    )
    found = {check.name: check.value for check in membership.checks(trained(bare, tmp_path), 0.05)}
    assert found["AUC, loss beside the untrained model's"] > 0.8
