"""Finished runs on tiny models, whose trained tensors are moved far, so that a forgotten one shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dpft import Machine, Spec, train
from dpft.exports import verify
from dpft.exports.source import ExportSource
from dpft.runs.folder import Run

FP32 = Machine(device="cpu", precision="fp32")


def shake(path: Path, by: float = 0.3) -> None:
    """Move every trained tensor of a finished run by public noise: training itself draws anew each time."""
    run = Run.open(path)
    found = run.read_tensors("adapter")
    assert found is not None
    generator = torch.Generator().manual_seed(5)
    tensors = {
        name: tensor
        if name in ("head.center", "head.spread")
        else tensor + by * torch.randn(tensor.shape, generator=generator)
        for name, tensor in found[0].items()
    }
    run.save_tensors("adapter", tensors, found[1])


@pytest.fixture
def finished(glue_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A factory: finished(model, task="sst2", **fields of Spec) -> the path of a run, shaken."""

    def make(model: Path, task: str = "sst2", by: float = 0.3, data: Path | None = None, **fields: Any) -> Path:
        data = data or glue_folder(task, train=60, validation=20)
        asked = {
            "representation": "cls",
            "max_length": 24,
            "batch_size": 30,
            "epochs": 1.0,
            "learning_rate": 1e-6,
            **fields,
        }
        spec = Spec(task=f"glue/{task}", data=str(data), model=str(model), **asked)
        path = train(spec, runs=tmp_path / "runs", machine=FP32).path
        shake(path, by)
        return path

    return make


@pytest.fixture
def source(finished: Callable[..., Path]) -> Callable[..., ExportSource]:
    """A factory: source(model, "lora", {"rank": 2}, "rte", "mask") -> a run as the formats read it."""

    def make(model: Path, method: str, options: dict[str, str], task: str, representation: str) -> ExportSource:
        path = finished(
            model, task, by=0.0, method=method, options=options, representation=representation, learning_rate=3e-2
        )
        return ExportSource.open(path)

    return make


def run_usage(lines: list[str], folder: Path, of: ExportSource, base: Path | None = None) -> Any:
    """The logits that usage lines give on the texts of `verify`."""
    rows = verify.texts(of.trained.paired)
    code = "\n".join(lines).replace("DIR", str(folder)).replace("THE_ENCODER_IT_WAS_TRAINED_ON", str(base))
    for shown, own in (('["a text", "another"]', "texts"), ('["a text"], ["its partner"]', "texts, pairs")):
        code = code.replace(shown, own)
    space = {"texts": list(rows.texts), "pairs": rows.pairs and list(rows.pairs)}
    exec(code, space)
    return space["logits"]


def sizes(kind: str, layers: int) -> dict[str, Any]:
    """The config of a small encoder of a family, 32 wide."""
    base = {
        "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 40,
    }  # fmt: skip
    if kind == "distilbert":
        return {"vocab_size": 60, "dim": 32, "n_layers": layers, "n_heads": 4, "hidden_dim": 48}
    own: dict[str, dict[str, Any]] = {
        "electra": {"embedding_size": 24},
        "albert": {"embedding_size": 24},
        "deberta-v2": {
            "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 32,
        },
        "modernbert": {"pad_token_id": 0},
    }  # fmt: skip
    return {**base, **own.get(kind, {})}
