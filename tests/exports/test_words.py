"""Exports of runs that label words: stock classes, pipelines, peft and onnxruntime give the run's own labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForTokenClassification, pipeline

from dpft import Machine, Spec, UserError, load, train
from dpft.exports import custom_code, export
from dpft.objectives.tagging import Tagging
from tests.exports.conftest import shake
from tests.exports.test_custom_code import batch, source

FP32 = Machine(device="cpu", precision="fp32")
TEXT = "The man's unbelievable dog, a  good-film!\nRio"
Finished = Callable[..., Path]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def run(tmp_path: Path) -> Finished:
    """A factory of finished runs, shaken."""
    home = tmp_path / "data"
    home.mkdir()
    for split in ("train", "validation"):
        (home / f"{split}.conll").write_text("the O\ndog B-who\n\nman B-who\nand O\n\n" * 15)

    def make(model: Path, method: str = "slash", **options: Any) -> Path:
        spec = Spec(
            task="ner/files", data=str(home), model=str(model), method=method, options=options, batch_size=15, epochs=1,
            learning_rate=1e-6, max_length=64,
        )  # fmt: skip
        path = train(spec, runs=tmp_path / "runs", machine=FP32).path
        shake(path, 0.5)
        return path

    return make


def assert_same_labels(folder: Path, path: Path, **more: Any) -> None:
    """A word's label and probability are the pipeline's at the token where the word begins."""
    tag = pipeline("token-classification", model=str(folder), ignore_labels=[], **more)
    found = {part["start"]: (part["entity"], float(part["score"])) for part in tag(TEXT)}
    (wanted,) = load(path, machine=FP32).tag([TEXT])
    assert len(wanted.words) == 10
    assert len({word.probability for word in wanted.words}) > 1
    for word in wanted.words:
        at = word.start if word.start in found else word.start - 1  # some tokens begin with the space before
        assert found[at] == (word.label, pytest.approx(word.probability, abs=1e-4)), word


@pytest.mark.parametrize(("method", "options"), [("slash", {"dim": 12}), ("lora", {"rank": 2})])
def test_a_stock_pipeline_gives_the_runs_labels(
    method: str, options: dict[str, Any], tiny_model: Path, run: Finished, tmp_path: Path
) -> None:
    path = run(tiny_model, method, **options)
    found = export(path, tmp_path / "out")
    model = AutoModelForTokenClassification.from_pretrained(found.path)
    assert type(model).__module__.startswith("transformers.")
    assert model.config.id2label == {0: "O", 1: "B-who", 2: "I-who"}
    assert_same_labels(found.path, path)
    assert 'pipeline("token-classification"' in "\n".join(found.usage)
    assert ModelCard.load(found.path / "README.md").data.pipeline_tag == "token-classification"


def test_what_stock_classes_cannot_hold_comes_with_its_code(tiny_bert: Path, run: Finished, tmp_path: Path) -> None:
    path = run(tiny_bert, "jr_warp", dim=12, tokens=2)
    with pytest.raises(UserError, match="pass --with-code"):
        export(path, tmp_path / "out")
    found = export(path, tmp_path / "out", with_code=True)
    assert_same_labels(found.path, path, trust_remote_code=True)


@pytest.mark.parametrize("format", ["onnx", "peft"])
def test_the_other_formats_give_the_runs_logits(format: str, tiny_bert: Path, run: Finished, tmp_path: Path) -> None:
    """Each is judged by the run's logits of every token before it is written; here it is used as its card says."""
    for extra in {"peft": ("peft",), "onnx": ("onnx", "onnxruntime", "onnxscript")}[format]:
        pytest.importorskip(extra)
    path = run(tiny_bert, "lora", rank=2)
    found = export(path, tmp_path / "out", format)
    lines = [line.replace("THE_ENCODER_IT_WAS_TRAINED_ON", str(tiny_bert)) for line in found.usage]
    *lines, last = [line.replace("a text", TEXT.replace("\n", " ")) for line in lines]
    space: dict[str, Any] = {}
    exec("\n".join([*lines, f"found = {last}"]), space)
    first = space["tokenizer"](TEXT, return_offsets_mapping=True)["offset_mapping"]
    labels = {start: label for (start, end), label in zip(first, space["found"][0], strict=False) if end}
    assert [labels[w.start] for w in load(path, machine=FP32).tag([TEXT])[0].words] == [
        w.label for w in load(path, machine=FP32).tag([TEXT])[0].words
    ]


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "modernbert"])
@pytest.mark.parametrize("method", ["slash", "warp", "jr_warp", "adapter"])
def test_own_code_gives_the_runs_logits_of_every_token(kind: str, method: str) -> None:
    of, rows = source(kind, method, "token", Tagging()), batch()
    own = custom_code.model(of)
    assert rows.allowed is not None
    with torch.no_grad():
        wanted = of.trained.adapted.model(rows)[rows.allowed].numpy()
        out = own(rows.ids, rows.allowed.long(), labels=torch.where(rows.allowed, 1, -100))
    np.testing.assert_allclose(out.logits[rows.allowed], wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    terms = [float(torch.logsumexp(row, 0) - row[1]) for row in out.logits[rows.allowed]]
    assert float(out.loss) == pytest.approx(np.mean(terms), rel=1e-5)
