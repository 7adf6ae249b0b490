"""Format peft: an adapter that unmodified `peft` loads onto the stock encoder, and the linear head in a second file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dpft.errors import UserError
from dpft.exports import adapters, tokenizer_files, verify
from dpft.exports.model_card import base_model
from dpft.exports.source import ExportSource
from dpft.models.loading import quiet
from dpft.spec import Representation

LIBRARY = "peft"

_HEAD = "head.safetensors"


def write(source: ExportSource, folder: Path) -> list[str]:
    """Write adapter_config.json, adapter_model.safetensors, head.safetensors and the tokenizer. Returns usage lines.

    The files are loaded again by stock classes and verified against the run's logits. Raises UserError for a method
    that no tuner of peft expresses.
    """
    if source.spec.method not in adapters.WAYS:
        raise UserError(
            f"format peft needs a run of the method {', '.join(adapters.WAYS)}, got {source.spec.method}; "
            "pass --format hf --with-code, or --format onnx"
        )
    with quiet(), adapters.silent():
        adapters.write(source, folder)
        _finish(source, folder)
        _check(source, folder)
    return _usage(source)


def _finish(source: ExportSource, folder: Path) -> None:
    """Write the head and the tokenizer."""
    from safetensors.torch import save_file

    weights = {name: t.detach().contiguous() for name, t in source.head.state_dict().items()}
    about = {"labels": json.dumps(source.labels), "representation": source.spec.representation}
    save_file(weights, folder / _HEAD, about)
    tokenizer_files.tokenizer(source).save_pretrained(folder)


def _check(source: ExportSource, folder: Path) -> None:
    """Load the export with stock classes. Raises UserError where its logits are not the run's."""
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    rows = verify.texts(source.trained.paired)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(
        list(rows.texts), rows.pairs and list(rows.pairs), padding=True, truncation=True, return_tensors="pt"
    )
    model, head = PeftModel.from_pretrained(adapters.base(source), folder).eval(), load_file(folder / _HEAD)
    with torch.no_grad():
        hidden = model(**encoded).last_hidden_state
    space: dict[str, Any] = {"torch": torch, "tokenizer": tokenizer, "inputs": encoded, "hidden": hidden}
    exec("\n".join(_reading(source)), space)  # exactly the published usage lines; they contain no text of a user
    logits = (space["read"] @ head["weight"].T + head["bias"]).numpy()
    found = verify.flat(logits, encoded["attention_mask"].numpy())
    difference = verify.distance(verify.logits(source, rows), found, source)
    if not difference <= verify.TOLERANCE:
        raise UserError(
            f"an adapter must give the run's logits to {verify.TOLERANCE:g} of their size, got {difference:.1e}; "
            "export it with --format hf or onnx"
        )


def _reading(source: ExportSource) -> list[str]:
    """Python lines that compute `read`, (B, D) or (B, T, D), from `hidden` (B, T, D), `inputs` and `tokenizer`."""
    return _READ[source.spec.representation](source)


def _masked(source: ExportSource) -> list[str]:
    lines = ['ids = inputs["input_ids"]', "masked = ids == tokenizer.mask_token_id"]
    if source.trained.paired:  # the first mask that a separator follows; a text may hold one of its own
        after = tokenizer_files.separator(source.trained.tokenizer, True)
        lines += [f"masked &= ids.roll(-1, 1) == {after}", "place = masked.int().argmax(1)"]
    else:
        lines += ["place = ids.shape[1] - 1 - masked.int().flip(1).argmax(1)  # the last mask"]
    return [*lines, "read = hidden[torch.arange(len(ids)), place]"]


_READ: dict[Representation, Callable[[ExportSource], list[str]]] = {
    "token": lambda _: ["read = hidden"],
    "cls": lambda _: ["read = hidden[:, 0]"],
    "mean": lambda _: [
        'there = inputs["attention_mask"].unsqueeze(-1).float()',
        "read = (hidden * there).sum(1) / there.sum(1)",
    ],
    "mask": _masked,
}


def _usage(source: ExportSource) -> list[str]:
    name = base_model(source.spec) or "THE_ENCODER_IT_WAS_TRAINED_ON"
    text = '["a text"], ["its partner"]' if source.trained.paired else '["a text", "another"]'
    return [
        "import torch",
        "from peft import PeftModel",
        "from safetensors.torch import load_file",
        "from transformers import AutoModel, AutoTokenizer",
        f'model = PeftModel.from_pretrained(AutoModel.from_pretrained("{name}"), "DIR").eval()',
        f'tokenizer, head = AutoTokenizer.from_pretrained("DIR"), load_file("DIR/{_HEAD}")',
        f'inputs = tokenizer({text}, padding=True, truncation=True, return_tensors="pt")',
        "with torch.no_grad():",
        "    hidden = model(**inputs).last_hidden_state",
        *_reading(source),
        'logits = read @ head["weight"].T + head["bias"]',
        *source.reading(),
    ]
