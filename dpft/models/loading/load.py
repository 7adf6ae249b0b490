"""Loading of models and tokenizers from a spec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from dpft.data.batch import Batch
from dpft.errors import UserError
from dpft.machine.hardware import Hardware
from dpft.models.architectures import longest
from dpft.models.base import AdaptableModel
from dpft.models.classifier import Classifier
from dpft.models.language_model import LanguageModel
from dpft.models.loading.quiet import one_line, quiet
from dpft.models.loading.sources import locate
from dpft.models.loading.weights import check, digest, read
from dpft.spec import Spec


def load(spec: Spec, outputs: int, hardware: Hardware, public: Sequence[Batch] = ()) -> AdaptableModel:
    """Load the model of `spec` on its device and in its precision.

    An encoder gets a new linear head of `outputs` outputs; a decoder (representation "none") keeps its own head.
    `public`: texts that are no training rows; what the head reads is standardised by them, in float32, so that all
    machines agree. Raises UserError on an unsupported architecture or one of the other kind, missing or pickled
    weights, remote code, or a hub that cannot be reached.
    """
    check(spec.model, spec.representation)
    stock = read(spec.model, hardware.attention)
    source = digest(stock)
    model: Classifier | LanguageModel
    if spec.representation == "none":
        model = LanguageModel(stock, source)
    else:
        model = Classifier(stock, outputs, spec.representation, source)
    check_length(model.backbone, spec.max_length)
    if public:
        model.standardise(public)
    stock.to(hardware.dtype)
    model.initialise(spec.seed, 0.02)
    return model.to(hardware.device)


def check_length(backbone: nn.Module, tokens: int, prompts: int = 0) -> None:
    """Raise UserError where texts and the method's prompts need more tokens than the model has positions."""
    most = longest(backbone) - prompts
    if tokens > most:
        beside = f" beside {prompts} prompts" if prompts else ""
        raise UserError(
            f"max-length must be at most the model's {most} tokens{beside}, got {tokens}; pass --max-length"
        )


def tokenizer(model: str) -> Any:
    """The model's tokenizer. Raises UserError where it is missing or does not match."""
    from transformers import AutoConfig, AutoTokenizer

    with quiet(), one_line(model):
        found = AutoTokenizer.from_pretrained(locate(model), trust_remote_code=False)
        rows = AutoConfig.from_pretrained(locate(model), trust_remote_code=False).vocab_size
    # Without its files, transformers makes a tokenizer that knows the special tokens only.
    if not len(found.all_special_ids) < len(found) <= rows:
        raise UserError(
            f"the tokenizer must know words, at most the encoder's {rows}, got {len(found)} tokens from {model!r}; "
            "save the right one there with tokenizer.save_pretrained(FOLDER)"
        )
    return found


def identity(model: str) -> str:
    """The `digest` of a model's weights. Raises UserError as `load` does."""
    return digest(read(model, "eager"))
