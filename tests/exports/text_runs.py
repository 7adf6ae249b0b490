"""Runs of tiny random decoders that write, and what is exported of them: their trained tensors are moved far."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from dpft import Machine, Spec, objectives
from dpft.exports.source import ExportSource
from dpft.inference.build import build_model
from dpft.inference.trained_model import Trained
from dpft.machine import hardware
from tests import decoders
from tests.conftest import _byte_level

FP32 = Machine(device="cpu", precision="fp32")
CHAT = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
START, PADDING, END = 0, 1, 2
# Words of the prompts of the check: a byte each would take many tokens.
PLACES = 128


def saved(family: str, folder: Path, *, chat: bool = False, **changes: Any) -> Path:
    """A random decoder of `family` beside a byte-level tokenizer without a padding token."""
    tokenizer = _byte_level()
    tokenizer.pad_token = None
    tokenizer.padding_side = "right"
    if chat:
        tokenizer.chat_template = CHAT
    tokens = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": PADDING}
    model = decoders.causal(family, vocab_size=400, max_position_embeddings=PLACES, **{**tokens, **changes})
    model.generation_config.temperature = 0.6  # a setting of sampling without sampling, which many models come with
    folder.mkdir(parents=True)
    with contextlib.redirect_stderr(io.StringIO()):
        model.config.save_pretrained(folder)
        (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "eos_token_id": [END, 9]}))
        model.generation_config = type(model.generation_config)()
        model.generation_config.eos_token_id = END
        kept = (folder / "generation_config.json").read_text()
        model.save_pretrained(folder)
        (folder / "generation_config.json").write_text(kept)
    tokenizer.save_pretrained(folder)
    return folder


def source(
    model: Path, method: str, options: dict[str, Any], labels: tuple[str, ...] = (), by: float = 0.2, **fields: Any
) -> ExportSource:
    """What an export reads of a finished run, without the run's folder."""
    spec = Spec(
        task="text/files", data="notes.jsonl", model=str(model), method=method, options=options,
        representation="none", max_length=64, **{"text": None if "messages" in fields else "text", **fields},
    )  # fmt: skip
    objective = objectives.load("language-model").configured(spec)
    made = build_model(spec, len(labels), bool(labels), hardware.resolve(FP32), objective=objective)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.adapted.updated.values():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    run: Any = SimpleNamespace(spec=spec, read_json=lambda name: None)
    trained = Trained(run, made.adapted, labels, bool(labels), made.tokenizer, hardware.resolve(FP32))
    return ExportSource(trained, None, {"private": False}, {})
