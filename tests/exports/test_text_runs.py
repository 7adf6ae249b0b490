"""A private run with control codes, trained from a file, through `dpft export`: its card, its files, its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from huggingface_hub import ModelCard

from dpft import Budget, Machine, Spec, UserError, load, train
from dpft.exports import export, model_card, needs_code
from dpft.inference.writing import Sampling
from dpft.runs.folder import Run
from tests.calling import Command
from tests.conftest import WORDS
from tests.exports.conftest import shake
from tests.exports.text_runs import saved

FP32 = Machine(device="cpu", precision="fp32")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run of a tied Llama, shaken, with the labels' shares released inside its budget."""
    home = tmp_path_factory.mktemp("text-run")
    rng = Random(0)
    for name, count in (("notes", 60), ("held", 10)):
        rows = [
            {"body": " ".join(rng.choices(WORDS, k=7)), "mood": rng.choice(("calm", "cross"))} for _ in range(count)
        ]
        (home / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = Spec(
        task="text/files", data=str(home / "notes.jsonl"), validation=str(home / "held.jsonl"), text="body",
        label="mood", labels=("calm", "cross"), model=str(saved("llama", home / "base", tie_word_embeddings=True)),
        method="lora", options={"rank": 2}, budget=Budget(8.0, 1e-3), batch_size=30, epochs=2, learning_rate=1e-6,
        max_length=64,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPFT_LEDGER", str(home / "ledger.sqlite"))
        patch.setenv("DPFT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        path = train(spec, runs=home / "runs", machine=FP32).path
    shake(path)
    return path


def test_a_plain_folder_writes_what_the_run_writes_as_its_card_says(run: Path, tmp_path: Path) -> None:
    found = export(run, tmp_path / "out")
    assert set(found.files) == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "privacy.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    space: dict[str, Any] = {}
    exec("\n".join([*found.usage[:-1], f"answer = {found.usage[-1]}"]), space)
    (wanted,) = load(run, machine=FP32).write(["Label: calm\n"], Sampling(temperature=0, max_new_tokens=64))
    assert space["answer"][0]["generated_text"] == "Label: calm\n" + wanted.text
    assert (found.path / "privacy.json").read_bytes() == (run / "privacy.json").read_bytes()


def test_the_card_says_what_it_writes_after_how_well_and_what_it_cost(run: Path, tmp_path: Path) -> None:
    found = export(run, tmp_path / "out")
    text, promise = (found.path / "README.md").read_text(), json.loads((run / "privacy.json").read_text())
    data = ModelCard.load(found.path / "README.md").data
    assert data.pipeline_tag == "text-generation"
    assert data.base_model is None
    assert data.eval_results[0].metric_type == "perplexity"
    assert "A local language model, fine-tuned on text/files (local files)" in text
    assert "begins with `Label: NAME` and a line break, where NAME is one of calm, cross" in text
    assert "The head reads" not in text
    assert promise["statement"] in text
    shares = json.loads((run / "label_shares.json").read_text())["shares"]
    assert f"calm {shares['calm']}, cross {shares['cross']} ({promise['label_shares']})" in text


def test_an_adapter_of_peft_comes_with_the_same_card(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    found = export(run, tmp_path / "out", "peft")
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "privacy.json"} <= set(found.files)
    assert "model.safetensors" not in found.files
    assert ModelCard.load(found.path / "README.md").data.to_dict()["library_name"] == "peft"


@pytest.mark.parametrize("format", ["hf", "peft"])
def test_no_path_and_no_row_leaves(run: Path, tmp_path: Path, format: str) -> None:
    if format == "peft":
        pytest.importorskip("peft")
    spec = Run.open(run).spec
    rows = [json.loads(line)["body"] for line in Path(str(spec.data)).read_text().splitlines()]
    banned = [*rows, str(run.parent.parent), str(tmp_path), run.name, "notes.jsonl", ".tmp"]
    for path in export(run, tmp_path / "out", format).path.rglob("*"):
        content = path.read_bytes()
        assert [word for word in banned if word.encode() in content] == [], path.name


def test_a_graph_is_refused_in_one_line_that_says_what_works(run: Path, tmp_path: Path, dpft: Command) -> None:
    code, _, said = dpft("export", str(run), "--to", str(tmp_path / "out"), "--format", "onnx")
    assert code == 2
    assert "a language model of this kind is exported as hf or peft, got 'onnx'; pass --format hf" in " ".join(
        said.split()
    )
    assert not (tmp_path / "out").exists()


def test_no_code_is_offered_for_models_that_write(run: Path, tmp_path: Path) -> None:
    found = export(run, tmp_path / "out", with_code=True)
    assert not [name for name in found.files if name.endswith(".py")]
    assert not needs_code(Spec(method="adapter", representation="none"))


def test_the_built_in_models_weights_are_on_no_hub_but_its_source_is_named() -> None:
    assert model_card.base_model(Spec(model="builtin-lm")) is None
    assert model_card.base_model(Spec(model="gpt2")) == "gpt2"


def test_a_wrong_export_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Injected bug: the merged model is the base model.
    from dpft.exports.source import ExportSource
    from dpft.models.loading.weights import read

    monkeypatch.setattr(ExportSource, "merged", lambda self: read(self.spec.model, "eager"))
    with pytest.raises(UserError, match="must give the run's logits"):
        export(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
