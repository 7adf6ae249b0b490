"""The card says what the run promises and nothing of where or on what it was made; a refusal leaves nothing."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from dpft import Budget, Spec
from dpft.errors import UserError
from dpft.exports import export, model_card
from dpft.runs.folder import Run

Finished = Callable[..., Path]


@pytest.fixture
def private(tiny_bert: Path, finished: Finished) -> Path:
    return finished(tiny_bert, options={"dim": 12}, budget=Budget(8.0, 1e-4))


def test_the_hub_reads_the_card(private: Path, tmp_path: Path) -> None:
    found = export(private, tmp_path / "out")
    data = ModelCard.load(found.path / "README.md").data
    result = json.loads((private / "result.json").read_text())
    assert data.to_dict()["library_name"] == "transformers"
    assert data.pipeline_tag == "text-classification"
    assert "differential-privacy" in data.tags
    assert data.base_model is None  # a local folder is not named
    assert [r.metric_value for r in data.eval_results] == [pytest.approx(result["value"], abs=1e-5)]
    assert data.eval_results[0].metric_type == "accuracy"
    assert data.eval_results[0].dataset_type == "glue/sst2"


def test_the_card_states_the_promise_with_all_it_rests_on(private: Path, tmp_path: Path) -> None:
    found = export(private, tmp_path / "out")
    text, promise = (found.path / "README.md").read_text(), json.loads((private / "privacy.json").read_text())
    assert (found.path / "privacy.json").read_bytes() == (private / "privacy.json").read_bytes()
    for words in (promise["statement"], promise["ledger_head"], promise["accountant"], promise["sampler"]):
        assert words in text
    for key in ("epsilon", "delta"):
        assert repr(promise[key]) in text
    for key in ("noise", "clip", "rate"):
        assert f"{promise[key]:.6g}" in text
    assert all(line in text for line in [*promise["covers"], *promise["does_not_cover"]])
    assert "NOT PRIVATE" not in text
    assert set(found.files) == {
        "README.md", "config.json", "model.safetensors", "privacy.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_a_run_not_private_says_so_in_the_title(tiny_bert: Path, finished: Finished, tmp_path: Path) -> None:
    found = export(finished(tiny_bert, options={"dim": 12}), tmp_path / "out")
    text = (found.path / "README.md").read_text()
    title = next(line for line in text.splitlines() if line.startswith("# "))
    assert "NOT PRIVATE" in title
    assert text.count("NOT PRIVATE") >= 2
    tags = ModelCard(text).data.tags
    assert "differential-privacy" not in tags
    assert "not-private" in tags
    assert "ε =" not in text


@pytest.mark.parametrize("representation", ["cls", "mask"])
def test_no_path_and_no_row_leaves(tiny_bert: Path, finished: Finished, tmp_path: Path, representation: str) -> None:
    run = finished(tiny_bert, options={"dim": 12}, representation=representation)
    (run / "private").mkdir(exist_ok=True)
    (run / "private" / "noted").write_text("a secret")
    spec = Run.open(run).spec
    assert spec.data is not None
    rows = pd.read_parquet(Path(spec.data) / "train.parquet")["sentence"]
    banned = [
        str(tmp_path), str(tiny_bert), tiny_bert.name, run.name, Run.open(run).id, "a secret", "pytest-of", ".tmp",
        *(row for row in rows if len(row) > 20),
    ]  # fmt: skip
    found = export(run, tmp_path / "out", with_code=True)
    for path in found.path.rglob("*"):
        content = path.read_bytes()
        assert [b for b in banned if b.encode() in content] == [], path.name
        assert "private" not in path.relative_to(found.path).parts


@pytest.mark.parametrize(
    ("model", "base"),
    [("builtin", "sentence-transformers/all-MiniLM-L6-v2"), ("roberta-base", "roberta-base"), ("a/b", "a/b")],
)
def test_the_base_model_is_a_hub_id(model: str, base: str) -> None:
    assert model_card.base_model(Spec(model=model)) == base


def test_a_folder_that_looks_like_a_hub_id_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clients" / "secret").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert model_card.base_model(Spec(model="clients/secret")) is None


def test_a_full_folder_an_unknown_format_and_code_for_another_format_are_refused(private: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("kept")
    for to, more in ((full, {}), (full / "mine", {}), (tmp_path / "x", {"format": "gguf"}),
                     (tmp_path / "x", {"format": "onnx", "with_code": True})):  # fmt: skip
        with pytest.raises(UserError) as caught:
            export(private, to, **more)
        assert "\n" not in str(caught.value)
    assert (full / "mine").read_text() == "kept"
    assert not (tmp_path / "x").exists()


def test_an_empty_folder_and_missing_parents_are_made_use_of(private: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for to in (tmp_path / "empty", tmp_path / "a" / "b"):
        assert (export(private, to).path / "config.json").is_file()
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_unfinished_run_is_refused(private: Path, tmp_path: Path) -> None:
    (private / "adapter.safetensors").unlink()
    with pytest.raises(UserError, match="dpft resume"):
        export(private, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _format(write: Any) -> Any:
    """importlib.import_module, with a format of its own."""
    honest = importlib.import_module

    def found(name: str, *more: Any) -> ModuleType | SimpleNamespace:
        return (
            SimpleNamespace(write=write, LIBRARY="onnx") if name == "dpft.exports.formats.onnx" else honest(name, *more)
        )

    return found


def test_a_missing_extra_is_one_line(private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_source: Any, folder: Path) -> list[str]:
        (folder / "half").write_text("")
        raise ModuleNotFoundError("No module named 'onnxscript.rewriter'", name="onnxscript.rewriter")

    monkeypatch.setattr(importlib, "import_module", _format(write))
    with pytest.raises(UserError, match=r"pip install 'dpft\[onnx\]'"):
        export(private, tmp_path / "out", "onnx")
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]


def test_usage_never_names_the_folder_of_the_moment(
    private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib, "import_module", _format(lambda _source, folder: [f'open("{folder}/model.onnx")']))
    found = export(private, tmp_path / "out", "onnx")
    assert found.usage == (f"open({str(tmp_path / 'out' / 'model.onnx')!r})",)
    text = (found.path / "README.md").read_text()
    assert 'open("DIR/model.onnx")' in text
    assert 'library_name: "onnx"' in text
