"""The exported tokenizer, which produces the token ids of training without further code."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from dpft.data.encoded import SpecialTokens
from dpft.errors import UserError
from dpft.exports.source import ExportSource


def save(made: Any, folder: Path) -> None:
    """Write tokenizer.json for the generic class: a family's class would add its own special tokens."""
    made.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    about = {**json.loads(path.read_text(encoding="utf-8")), "tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def tokenizer(source: ExportSource) -> Any:
    """A fast tokenizer that truncates to the run's length and, for `mask`, inserts the mask token."""
    masked = masking(source.trained.tokenizer) if source.spec.representation == "mask" else None
    return generic(source, masked, model_max_length=source.spec.max_length)


def generic(source: ExportSource, template: Any, **more: Any) -> Any:
    """The run's tokenizer as the generic fast class. template: of special tokens, None for its own. more: arguments."""
    from transformers import PreTrainedTokenizerFast

    own = source.trained.tokenizer
    backend = getattr(own, "backend_tokenizer", None)
    if backend is None:
        raise UserError("an export needs a fast tokenizer, got a slow one; save its tokenizer.json beside the model")
    backend = Tokenizer.from_str(backend.to_str())
    backend.no_padding()
    backend.no_truncation()
    if template is not None:
        backend.post_processor = template
    taken = inspect.signature(source.trained.adapted.model.backbone.forward).parameters
    special = {
        name: getattr(own, name) for name in own.SPECIAL_TOKENS_ATTRIBUTES if isinstance(getattr(own, name), str)
    }
    names = [name for name in own.model_input_names if name in taken]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=names, **{**special, **more})


def masking(own: Any) -> Any:
    """The template of special tokens of `dpft.tokens.encode`, with the mask token before the separator."""
    one, two = SpecialTokens.of(own, pair=False), SpecialTokens.of(own, pair=True)
    name = own.convert_ids_to_tokens
    mask = own.mask_token_id

    def pieces(ids: list[int], kind: int) -> list[str]:
        return [f"{name(i)}:{kind}" for i in ids]

    second = len(two.between) - two.second_typed
    kind = 1 if "token_type_ids" in own.model_input_names else 0
    pair = [*pieces(two.before, 0), "$A:0", *pieces([mask, *two.between[:second]], 0)]
    pair += [*pieces(two.between[second:], kind), f"$B:{kind}", *pieces(two.after, kind)]
    used = {mask, *one.before, *one.after, *two.before, *two.between, *two.after}
    return processors.TemplateProcessing(
        single=[*pieces(one.before, 0), "$A:0", *pieces([mask, *one.after], 0)],
        pair=pair,
        special_tokens=[(name(i), i) for i in sorted(used)],
    )


def separator(own: Any, paired: bool) -> int | None:
    """The id of the token that directly follows the mask token."""
    template = SpecialTokens.of(own, paired)
    after = template.between if paired else template.after
    return after[0] if after else None
