"""Format peft: an adapter that unmodified `peft` loads onto the stock encoder, and the linear head in a second file."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpft.errors import UserError
from dpft.exports import tokenizer_files, verify
from dpft.exports.model_card import base_model
from dpft.exports.source import ExportSource
from dpft.methods.lora import LowRankDense
from dpft.methods.slash import ShiftedDense
from dpft.models.adapted import modules_named
from dpft.models.loading import locate, quiet
from dpft.spec import HEAD, Representation

LIBRARY = "peft"

_ADAPTER = "default"
_HEAD = "head.safetensors"


def write(source: ExportSource, folder: Path) -> list[str]:
    """Write adapter_config.json, adapter_model.safetensors, head.safetensors and the tokenizer. Returns usage lines.

    The files are loaded again by stock classes and verified against the run's logits. Raises UserError for a method
    that no tuner of peft expresses.
    """
    if source.spec.method not in _WAYS:
        raise UserError(
            f"format peft needs a run of the method {', '.join(_WAYS)}, got {source.spec.method}; pass --format hf "
            "--with-code, or --format onnx"
        )
    from dpft.methods.peft.config_parsing import library

    library()
    with quiet(), _silent(), torch.random.fork_rng(devices=[]):
        _WAYS[source.spec.method](source, folder)
        _finish(source, folder)
        _check(source, folder)
    return _usage(source)


def _lora(source: ExportSource, folder: Path) -> None:
    """LoRA: peft's own form, B A scaled by alpha / r."""
    from peft import LoraConfig

    sites = modules_named(source.trained.adapted.model, LowRankDense)
    first = next(iter(sites.values()))
    rank = first.down.weight.shape[0]
    config = LoraConfig(r=rank, lora_alpha=first.scale * rank, target_modules=list(sites), lora_dropout=0.0)
    model = _wrapped(source, config)
    for name, site in sites.items():
        layer = model.get_base_model().get_submodule(name)
        _copy(layer.lora_A[_ADAPTER].weight, site.down.weight)
        _copy(layer.lora_B[_ADAPTER].weight, site.up.weight)
    _save(model, folder)


def _slash(source: ExportSource, folder: Path) -> None:
    """SLaSh: W_l z, constant after training, is a BEFT bias at the dense layer that it shifts."""
    from peft import BeftConfig

    trained = source.trained.adapted.model
    sites = modules_named(trained, ShiftedDense)
    model = _wrapped(source, BeftConfig(target_modules=list(sites)))
    assert trained.before is not None
    trained.before(torch.empty(1, 0))
    for name, site in sites.items():
        assert site.shift is not None
        _copy(model.get_base_model().get_submodule(name).beft_bias[_ADAPTER], site.shift[:1])
    _save(model, folder)


def _own(source: ExportSource, folder: Path) -> None:
    """A run of one of peft's tuners: its saved tensors, under the same names."""
    trained = source.trained.adapted.model.backbone
    model = _wrapped(source, copy.deepcopy(trained.peft_config[_ADAPTER]), source.spec.seed)
    own = model.get_base_model()
    held = {**dict(own.named_parameters()), **dict(own.named_buffers())}
    for name, value in source.trained.adapted.state().items():
        if not name.startswith(HEAD):
            _copy(held[name.removeprefix("drawn.")], value)
    _save(model, folder)


_WAYS: dict[str, Callable[[ExportSource, Path], None]] = {"lora": _lora, "slash": _slash, "peft": _own}


def _base(source: ExportSource) -> Any:
    """The stock encoder."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(
        locate(source.spec.model), dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )


def _wrapped(source: ExportSource, config: Any, seed: int = 0) -> Any:
    from peft import get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(_base(source), config, adapter_name=_ADAPTER).eval()


@torch.no_grad()
def _copy(to: Tensor, value: Tensor) -> None:
    if to.shape != value.shape:
        raise UserError(
            f"an adapter must have the run's shapes, got {tuple(value.shape)} for {tuple(to.shape)}; "
            "install the peft that the run was trained with"
        )
    to.copy_(value)


def _save(model: Any, folder: Path) -> None:
    """Save without peft's model card, which would contain the local path of the encoder."""
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def _finish(source: ExportSource, folder: Path) -> None:
    """Set the encoder's public name, and write the head and the tokenizer."""
    from safetensors.torch import save_file

    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config.update(base_model_name_or_path=base_model(source.spec), inference_mode=True)
    if source.objective.export.peft_task is not None:
        config.update(task_type=source.objective.export.peft_task)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
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
    model, head = PeftModel.from_pretrained(_base(source), folder).eval(), load_file(folder / _HEAD)
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


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence warnings and progress bars of peft's tuners."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
