"""The stock model of a checkpoint, read in float32, and the digest of its weights."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from dpft.errors import UserError
from dpft.models.architectures import POOLER, architecture, without_pooler
from dpft.models.loading.quiet import one_line, quiet
from dpft.models.loading.sources import configuration, locate
from dpft.spec import Representation


def digest(backbone: nn.Module) -> str:
    """sha256 over names and float32 values of a backbone's parameters, independent of the storage format."""
    total = hashlib.sha256()
    for name, parameter in sorted(backbone.named_parameters()):
        total.update(name.encode())
        total.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def check(model: str, representation: Representation | None = None) -> None:
    """Raise the errors of `load` early, before weights are read: missing folder, pickles, unsupported architecture.

    With `representation` also for an encoder where text is to be written, and for a decoder where it is to be labelled.
    """
    row = architecture(configuration(model))
    if representation is not None and row.decoder != (representation == "none"):
        kind, needed = ("decoder", "an encoder") if row.decoder else ("encoder", "a decoder, such as builtin-lm")
        task = "that labels text" if row.decoder else "that writes text"
        other = "text/files" if row.decoder else "files"
        raise UserError(
            f"a task {task} needs {needed}, got the {kind} {model!r}; pass another --model, or --task {other}"
        )


def read(model: str, attention: str) -> Any:
    """The stock model in float32: an encoder without its pooler, or a decoder with its language-model head.

    Raises UserError as `load` does.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    check(model)
    decoder = architecture(configuration(model)).decoder
    with quiet(), one_line(model):
        kind: Any = AutoModelForCausalLM if decoder else AutoModel
        found, info = kind.from_pretrained(
            locate(model),
            dtype=torch.float32,
            attn_implementation=attention if _knows(model, attention) else "eager",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    without_pooler(found)
    for module in found.modules():
        if hasattr(module, "chunk_size_feed_forward"):
            module.chunk_size_feed_forward = 0  # it cuts along tokens, runs layers twice, and takes some lengths only
    missing = sorted(k for k in info["missing_keys"] if k.partition(".")[0] not in POOLER) + sorted(
        str(m) for m in info["mismatched_keys"]
    )
    if missing:
        shown = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        whole = "model" if decoder else "encoder"
        raise UserError(
            f"a checkpoint must hold every weight of its {whole}, got {len(missing)} missing ({shown}) in {model!r}; "
            "pass --model with a complete one"
        )
    return found


def _knows(model: str, attention: str) -> bool:
    """Whether the model's class supports that attention: MPNet and DeBERTa have "eager" alone."""
    from transformers import MODEL_MAPPING

    kind = MODEL_MAPPING[type(configuration(model))]
    return attention == "eager" or bool(getattr(kind, f"_supports_{attention}", False))
