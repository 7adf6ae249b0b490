"""The exported tokenizer of a model that writes: prompts become the token ids of training, padded on the left."""

from __future__ import annotations

from typing import Any

from tokenizers import processors

from dpft.exports.source import ExportSource
from dpft.exports.tokenizer_files import generic
from dpft.models.architectures import longest


def tokenizer(source: ExportSource) -> Any:
    """A fast tokenizer that puts the start token before a prompt, and nothing after it, as the run does.

    The tokens of chats are those of the chat template alone. Where there is no padding token, the end token is it.
    """
    own = source.trained.tokenizer
    made = generic(
        source,
        None if source.spec.messages is not None else _starting(own),
        model_max_length=longest(source.trained.adapted.model.backbone),
        padding_side="left",
        truncation_side="left",
        clean_up_tokenization_spaces=False,
        pad_token=own.pad_token or own.eos_token,
    )
    made.chat_template = own.chat_template
    return made


def _starting(own: Any) -> Any:
    """The template [start] + text."""
    name = own.eos_token if own.bos_token is None else own.bos_token
    pieces = [f"{name}:0", "$A:0"]
    return processors.TemplateProcessing(
        single=pieces, pair=[*pieces, "$B:0"], special_tokens=[(name, own.convert_tokens_to_ids(name))]
    )
