"""Format hf of models that write: a plain AutoModelForCausalLM folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from dpft.errors import UserError
from dpft.exports import adapters, tokenizer_files
from dpft.exports.source import ExportSource
from dpft.exports.text_formats import _tokenizer, _verify
from dpft.methods import CannotMerge
from dpft.models.loading import quiet

LIBRARY = "transformers"

# Settings of sampling, which a config without it must not have.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def write(source: ExportSource, folder: Path, with_code: bool = False) -> list[str]:
    """Write config.json, generation_config.json, model.safetensors and the tokenizer. Returns usage lines.

    They are loaded again by transformers and verified against the run's logits and texts. Raises UserError where stock
    classes cannot express the run; there is no modelling file for it.
    """
    with quiet():
        try:
            model = stock(source)
        except CannotMerge as reason:
            raise UserError(_refusal(source, str(reason))) from None
        made = _tokenizer.tokenizer(source)
        model.generation_config = generation_config(model, made)
        model.save_pretrained(folder)
        tokenizer_files.save(made, folder)
        kind: Any = _auto_class(source)
        _verify.check(source, folder, kind.from_pretrained(folder, trust_remote_code=False).eval())
    prompt = _verify.usual_prompt(source)
    return source.objective.export.usage(
        repr(prompt) if source.spec.messages is None else repr([{"role": "user", "content": prompt}])
    )


def stock(source: ExportSource) -> Any:
    """The run as the stock model, with nothing of where it was loaded from. Raises CannotMerge."""
    model: Any = source.merged()
    model.config._name_or_path = ""
    model.config.dtype = torch.float32
    for name in ("quantization_config", "auto_map"):  # the weights are plain ones now, and the class is a stock one
        if hasattr(model.config, name):
            delattr(model.config, name)
    return model.eval()


def generation_config(model: Any, tokenizer: Any) -> Any:
    """The base model's, with the tokens that the run starts, ends and pads texts with."""
    made = copy.deepcopy(model.generation_config)
    made._from_model_config = False
    made.bos_token_id, made.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    made.pad_token_id = tokenizer.pad_token_id
    if not made.do_sample:
        blank = type(made)()
        for name in _SAMPLING:
            setattr(made, name, getattr(blank, name))
    return made


def _auto_class(source: ExportSource) -> Any:
    import transformers

    return getattr(transformers, source.objective.export.auto_class)


def _refusal(source: ExportSource, reason: str) -> str:
    method = source.spec.method
    way = "pass --format peft" if method in adapters.WAYS else "use `dpft generate`, or train with --method lora"
    return f"format hf needs a run that stock classes can express, got {method}: {reason}; {way}"
