"""Each method through the whole line: train, break off, resume, load; and what only some methods do."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dpft import Budget, Machine, Spec, UserError, load, methods, resume, train
from dpft.inference.outputs import features
from dpft.models.adapted import AdaptedModel
from dpft.models.classifier import Classifier
from dpft.privacy.ledger import Ledger
from dpft.runs.folder import Run
from tests.stopping import StopAt

FP32 = Machine(device="cpu", precision="fp32")
OPTIONS: dict[str, dict[str, Any]] = {
    "slash": {"dim": 12}, "jr_warp": {"dim": 12, "tokens": 2}, "warp": {"tokens": 4}, "lora": {"rank": 2},
    "adapter": {"bottleneck": 4}, "compacter": {"bottleneck": 8}, "bitfit": {}, "rgp": {"rank": 2}, "linear": {},
    "full": {},
}  # fmt: skip


@pytest.fixture
def spec(tiny_bert: Path, glue_folder: Any) -> Spec:
    return Spec(
        task="glue/sst2", data=str(glue_folder("sst2", train=160, validation=40)), model=str(tiny_bert),
        budget=Budget(8.0, 1e-4), batch_size=40, epochs=1, max_length=16,
    )  # fmt: skip


def test_no_method_is_left_out() -> None:
    assert set(OPTIONS) == set(methods.names()) - {"peft"}


@pytest.mark.parametrize("name", OPTIONS)
def test_it_trains_breaks_off_resumes_and_loads(name: str, spec: Spec, tmp_path: Path) -> None:
    spec = replace(spec, method=name, options=OPTIONS[name])
    stopped = StopAt(2)
    with pytest.raises(KeyboardInterrupt):
        train(spec, runs=tmp_path / "runs", machine=FP32, progress=stopped)
    result = resume(stopped.path, machine=FP32)
    assert result.epsilon is not None
    assert result.epsilon <= 8.0
    loaded = load(result.path, machine=FP32)
    assert loaded.evaluate() == (result.metric, result.value)
    assert result.trainable == methods.load(name, spec.options).trainable(loaded.adapted.model.backbone.config, 2)


@pytest.mark.usefixtures("drawn_alike")
@pytest.mark.parametrize("name", OPTIONS)
def test_without_privacy_it_learns_what_can_be_told_from_the_words(name: str, spec: Spec, tmp_path: Path) -> None:
    # Catches a method that trains nothing, silently: the labels follow from single words.
    slow = {"linear": 0.3, "warp": 0.3, "full": 3e-3, "rgp": 1e-2, "jr_warp": 0.15}
    spec = replace(spec, method=name, options=OPTIONS[name], budget=None, epochs=15, learning_rate=slow.get(name, 5e-2))
    assert train(spec, runs=tmp_path / "runs", machine=FP32).value >= 0.7


def test_without_privacy_the_methods_own_learning_rate_is_taken_and_written_down(spec: Spec, tmp_path: Path) -> None:
    result = train(replace(spec, options={"dim": 12}, budget=None), runs=tmp_path / "runs", machine=FP32)
    assert Run.open(result.path).spec.learning_rate == methods.describe("slash")["non_private_rate"]


@pytest.mark.usefixtures("drawn_alike")
def test_frozen_features_are_what_the_head_reads_of_the_tokens(spec: Spec, tmp_path: Path) -> None:
    # The value was judged on features kept from before; the loaded model reads the tokens themselves.
    result = train(
        replace(spec, method="linear", epochs=20, budget=None, learning_rate=0.1), runs=tmp_path / "r", machine=FP32
    )
    loaded = load(result.path, machine=FP32)
    assert loaded.evaluate() == (result.metric, result.value)
    assert result.value > 0.6


def test_the_encoder_is_run_once_for_each_row_of_a_frozen_method(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    represent = Classifier.represent

    def counted(self: Classifier, batch: Any) -> torch.Tensor:
        seen.append(0 if batch.features is not None else len(batch))
        return represent(self, batch)

    monkeypatch.setattr(Classifier, "represent", counted)
    train(replace(spec, method="linear", epochs=5), runs=tmp_path / "runs", machine=FP32)
    assert sum(seen) == 256 + 2 + 160 + 40  # made-up texts for the head and a rehearsal; training, validation rows


def test_features_keep_the_rows_order(spec: Spec, tmp_path: Path) -> None:
    from dpft.data.examples import Examples
    from dpft.inference.build import build_model
    from dpft.machine.hardware import resolve
    from dpft.tokens.encode import encode

    made = build_model(replace(spec, method="linear"), 2, False, resolve(FP32))
    rows = Examples(["a film", "the story is good and warm", "", "dull"], None, torch.tensor([0, 1, 0, 1]).numpy())
    encoded = encode(rows, made.tokenizer, "mean", 16)
    found = features(made.adapted.model, encoded, resolve(FP32))
    for row in range(4):
        alone = encode(Examples([rows.texts[row]], None, rows.labels[row : row + 1]), made.tokenizer, "mean", 16)
        torch.testing.assert_close(
            torch.from_numpy(found[row : row + 1]),
            torch.from_numpy(features(made.adapted.model, alone, resolve(FP32))),
        )


def test_a_method_that_takes_one_example_at_a_time_says_so(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpft.methods.lora import Lora

    attach = Lora.attach

    def single(self: Lora, model: Classifier, seed: int) -> AdaptedModel:
        return replace(attach(self, model, seed), gradients="single")

    monkeypatch.setattr(Lora, "attach", single)
    heard = StopAt(1)
    with pytest.raises(KeyboardInterrupt):
        train(replace(spec, method="lora"), runs=tmp_path / "runs", machine=FP32, progress=heard)
    assert any("one example at a time" in note for note in heard.notes)


def test_full_starts_from_the_stored_weights_and_says_float32(spec: Spec, tmp_path: Path) -> None:
    # Catches weights rounded to bfloat16 on their way in, and a card that says bf16 of a float32 encoder.
    result = train(
        replace(spec, method="full", budget=None, learning_rate=1e-12),
        runs=tmp_path / "runs", machine=Machine(device="cpu", precision="bf16"),
    )  # fmt: skip
    assert result.precision == "fp32"
    loaded = load(result.path, machine=Machine(device="cpu", precision="bf16"))
    stored = load_file(Path(spec.model) / "model.safetensors")
    for name, parameter in loaded.adapted.named.items():
        if name in stored:
            torch.testing.assert_close(parameter.detach(), stored[name], rtol=1e-6, atol=1e-8)


def test_what_cannot_be_trained_is_refused_before_anything_is_spent(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpft.methods.full import Full

    attach = Full.attach

    def idle(self: Full, model: Classifier, seed: int) -> AdaptedModel:
        model.backbone.spare = torch.nn.Linear(2, 2)
        return attach(self, model, seed)

    monkeypatch.setattr(Full, "attach", idle)
    with pytest.raises(UserError, match=r"every trainable parameter must affect the outputs, got 'spare\.weight'"):
        train(replace(spec, method="full"), runs=tmp_path / "runs", machine=FP32)
    assert not (tmp_path / "runs").exists()
    with Ledger(os.environ["DPFT_LEDGER"]) as book:
        assert not book.view().populations


def test_an_encoder_that_cuts_its_layers_inputs_is_run_whole(spec: Spec, tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chunked"
    shutil.copytree(tiny_bert, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "chunk_size_feed_forward": 4}))
    result = train(replace(spec, model=str(folder), method="full"), runs=tmp_path / "runs", machine=FP32)
    assert result.steps == 4
