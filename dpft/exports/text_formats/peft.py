"""Format peft of models that write: an adapter that unmodified `peft` loads onto the base model."""

from __future__ import annotations

from pathlib import Path

from dpft import methods
from dpft.errors import UserError
from dpft.exports import adapters, tokenizer_files
from dpft.exports.model_card import base_model
from dpft.exports.source import ExportSource
from dpft.exports.text_formats import _tokenizer, _verify
from dpft.models.loading import BUILTIN_LM, quiet

LIBRARY = "peft"


def write(source: ExportSource, folder: Path) -> list[str]:
    """Write adapter_config.json, adapter_model.safetensors and the tokenizer. Returns usage lines.

    They are loaded again by stock classes and verified against the run's logits and texts. Raises UserError for a
    method that no tuner of peft expresses, and for the built-in model, which no one else has as it is.
    """
    method = source.spec.method
    if method not in adapters.WAYS:
        merged = methods.load(method, source.spec.options).traits.efficient_inference
        way = "pass --format hf" if merged else "use `dpft generate`, or train with --method lora"
        raise UserError(f"format peft needs a run of the method {', '.join(adapters.WAYS)}, got {method}; {way}")
    if source.spec.model == BUILTIN_LM:
        raise UserError(
            f"an adapter needs a base model that others have, got {BUILTIN_LM}, whose weights no hub has; "
            "pass --format hf"
        )
    with quiet(), adapters.silent():
        adapters.write(source, folder)
        made = _tokenizer.tokenizer(source)
        tokenizer_files.save(made, folder)
        from peft import PeftModel

        loaded = PeftModel.from_pretrained(adapters.base(source), folder).eval()
        _verify.check(source, folder, loaded, eos_token_id=made.eos_token_id, pad_token_id=made.pad_token_id)
    return _usage(source)


def _usage(source: ExportSource) -> list[str]:
    prompt, given = _verify.usual_prompt(source), 'return_tensors="pt"'
    read = f"inputs = tokenizer({prompt!r}, {given})"
    if source.spec.messages is not None:
        turns = [{"role": "user", "content": prompt}]
        given = f"add_generation_prompt=True, return_dict=True, {given}"
        read = f"inputs = tokenizer.apply_chat_template({turns!r}, {given})"
    name = base_model(source.spec) or "THE_MODEL_IT_WAS_TRAINED_ON"
    return [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f'base = AutoModelForCausalLM.from_pretrained("{name}", dtype="float32")',
        'model, tokenizer = PeftModel.from_pretrained(base, "DIR").eval(), AutoTokenizer.from_pretrained("DIR")',
        read,
        'ending = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}',
        "ids = model.generate(**inputs, max_new_tokens=64, do_sample=False, **ending)",
        'tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)',
    ]
