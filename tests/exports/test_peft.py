"""Adapters that unmodified peft puts on the plain encoder, with the run's own logits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("peft", reason="needs the extra `peft`; pip install 'dpft[peft]'")

from dpft import UserError
from dpft.exports import verify
from dpft.exports.formats import peft as adapters
from tests.exports.conftest import run_usage

pytestmark = pytest.mark.filterwarnings("ignore")


CASES = [
    ("lora", {"rank": "3", "alpha": "7", "targets": "query,output,attention"}, "sst2", "mask"),
    ("lora", {"freeze_a": "true"}, "rte", "mask"),
    ("slash", {"dim": "12", "init": "normal"}, "rte", "mask"),
    ("slash", {"dim": "12", "position": "intermediate"}, "stsb", "cls"),
    ("slash", {"dim": "12", "position": "attention", "regenerate": "true"}, "sst2", "mean"),
    ("peft", {"type": "ia3"}, "sst2", "mask"),
    ("peft", {"type": "vera", "r": "8"}, "rte", "mean"),
    ("peft", {"type": "ln_tuning"}, "sst2", "cls"),
    ("peft", {"type": "oft", "oft_block_size": "8"}, "sst2", "mask"),
]


@pytest.mark.parametrize(("method", "options", "task", "representation"), CASES)
def test_the_printed_lines_give_the_runs_logits(
    source, tiny_model: Path, tmp_path: Path, method: str, options: dict[str, str], task: str, representation: str
) -> None:
    found, folder = source(tiny_model, method, options, task, representation), tmp_path / "out"
    folder.mkdir()
    lines = adapters.write(found, folder)
    logits = run_usage(lines, folder, found, tiny_model).numpy()
    wanted = found.trained.logits(verify.texts(found.trained.paired))
    assert np.ptp(wanted, axis=0).max() > 0
    assert verify.distance(wanted, logits, found) <= 1e-5


def test_an_adapter_names_no_local_path_and_holds_the_learned_tensors_alone(
    source, tiny_bert: Path, tmp_path: Path
) -> None:
    adapters.write(source(tiny_bert, "slash", {"dim": "12"}, "sst2", "mean"), tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == ["adapter_model.safetensors", "head.safetensors"]
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    for file in tmp_path.glob("*.json"):
        assert str(tiny_bert) not in file.read_text()
    from safetensors.torch import load_file

    assert sum(t.numel() for t in load_file(tmp_path / "adapter_model.safetensors").values()) == 2 * 32


def test_the_built_in_encoder_is_named_as_upstream(source, builtin: str, tmp_path: Path) -> None:
    found = source(Path(builtin), "lora", {"rank": "2"}, "sst2", "mean")
    folder = tmp_path / "out"
    folder.mkdir()
    lines = adapters.write(found, folder)
    upstream = "sentence-transformers/all-MiniLM-L6-v2"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == upstream
    assert any(f'"{upstream}"' in line for line in lines)


@pytest.mark.parametrize("method", ["warp", "adapter"])
def test_methods_that_are_no_stock_adapter_are_refused_in_one_line(
    source, tiny_bert: Path, tmp_path: Path, method: str
) -> None:
    found = source(tiny_bert, method, {}, "sst2", "mean")
    with pytest.raises(UserError, match="lora, slash, peft") as error:
        adapters.write(found, tmp_path)
    assert "\n" not in str(error.value)


def test_an_adapter_with_other_logits_is_refused(source, tiny_bert: Path, tmp_path: Path) -> None:
    found = source(tiny_bert, "lora", {"rank": "2"}, "sst2", "mean")
    with torch.no_grad():
        found.head.weight += 1
    with pytest.raises(UserError, match="must give the run's logits"):
        adapters.write(found, tmp_path)


def test_pefts_own_card_is_not_left_behind(source, tiny_bert: Path, tmp_path: Path) -> None:
    adapters.write(source(tiny_bert, "lora", {"rank": "2"}, "sst2", "mean"), tmp_path)
    assert "README.md" not in os.listdir(tmp_path)
