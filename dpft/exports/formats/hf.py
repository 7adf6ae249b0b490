"""Format hf: a folder that transformers loads without dpft, with a modelling file only where needed and allowed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from dpft.errors import UserError
from dpft.exports import custom_code, stock_heads, tokenizer_files, verify
from dpft.exports.source import ExportSource
from dpft.methods import CannotMerge
from dpft.models.loading import quiet

LIBRARY = "transformers"

_REASONS = {
    "mask": "a stock classifier reads the first token, not the mask",
    "mean": "a stock classifier reads the first token, not the mean of all",
}
_PEFT = ("lora", "peft", "slash")


def write(source: ExportSource, folder: Path, with_code: bool = False) -> list[str]:
    """Write config.json, model.safetensors and the tokenizer, verified against the run's logits. Returns usage lines.

    Raises UserError where stock classes cannot express the run and `with_code` is false.
    """
    with quiet():
        try:
            model, trusted = stock(source), False
        except CannotMerge as reason:
            if not with_code or source.objective.export.custom_class is None:
                raise UserError(_refusal(source, str(reason))) from None
            model, trusted = custom_code.model(source), True
        model.save_pretrained(folder)
        tokenizer_files.save(tokenizer_files.tokenizer(source), folder)
        if trusted:
            custom_code.add_code(folder)
        verify.check(source, folder, type(model))
    return _usage(source, trusted)


def stock(source: ExportSource) -> Any:
    """The run as its family's stock class for its objective. Raises CannotMerge."""
    import transformers

    target = source.objective.export
    kind: Any = getattr(transformers, target.auto_class)
    if source.spec.representation in _REASONS:
        raise CannotMerge(_REASONS[source.spec.representation])
    encoder = source.merged()
    config: Any = copy.deepcopy(encoder.config)
    for name, value in custom_code.labelling(source).items():
        setattr(config, name, value)
    config.dtype = torch.float32
    with torch.random.fork_rng(devices=[]):  # all random initial weights are replaced
        model = kind.from_config(config)
    base = getattr(model, model.base_model_prefix)
    left = base.load_state_dict(encoder.state_dict(), strict=False)
    assert not left.unexpected_keys
    assert all(name.startswith("pooler") for name in left.missing_keys)
    stock_heads.of(target.auto_class)(model, source.head)
    return model.eval()


def _refusal(source: ExportSource, reason: str) -> str:
    spec = source.spec
    ways = [] if source.objective.export.custom_class is None else ["--with-code"]
    ways.append("--format onnx or peft" if spec.method in _PEFT else "--format onnx")
    return (
        f"format hf needs a run that stock classes can express, got {spec.method} with representation "
        f"{spec.representation}: {reason}; pass {', or '.join(ways)}"
    )


def _usage(source: ExportSource, trusted: bool) -> list[str]:
    trust = ", trust_remote_code=True" if trusted else ""
    text = '{"text": "a text", "text_pair": "its partner"}' if source.trained.paired else '"a text"'
    return source.objective.export.usage(text, trust)
