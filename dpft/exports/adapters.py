"""The run as an adapter of unmodified `peft` on the stock model: LoRA, BEFT, or the tuner that it was trained with."""

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
from dpft.exports.model_card import base_model
from dpft.exports.source import ExportSource
from dpft.methods.lora import LowRankDense
from dpft.methods.peft.config_parsing import library
from dpft.methods.slash import ShiftedDense
from dpft.models.adapted import modules_named, plain
from dpft.models.loading import locate
from dpft.spec import HEAD

_ADAPTER = "default"


def write(source: ExportSource, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, with the base model's public name, if it has one.

    Raises UserError where no tuner of peft expresses the run.
    """
    library()
    with torch.random.fork_rng(devices=[]):
        model = WAYS[source.spec.method](source)
    # Without peft's own model card, which would contain the local path of the base model.
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config.update(base_model_name_or_path=base_model(source.spec), inference_mode=True)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def base(source: ExportSource) -> Any:
    """The stock model that the adapter is put on."""
    import transformers

    kind: Any = getattr(transformers, source.objective.export.peft_base)
    return kind.from_pretrained(
        locate(source.spec.model), dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )


def _lora(source: ExportSource) -> Any:
    """LoRA: peft's own form, B A scaled by alpha / r."""
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    sites = modules_named(source.trained.adapted.model, LowRankDense)
    first = next(iter(sites.values()))
    rank = first.down.weight.shape[0]
    stock = base(source)
    start = _inside(stock)
    turned = any(isinstance(stock.get_submodule(f"{start}{name}"), Conv1D) for name in sites)
    model = _wrapped(
        source, stock,
        LoraConfig(
            r=rank, lora_alpha=first.scale * rank, target_modules=[f"{start}{name}" for name in sites],
            lora_dropout=0.0, fan_in_fan_out=turned,
        ),
    )  # fmt: skip
    for name, site in sites.items():
        layer = stock.get_submodule(f"{start}{name}")
        _copy(layer.lora_A[_ADAPTER].weight, site.down.weight)
        _copy(layer.lora_B[_ADAPTER].weight, site.up.weight)
    return model


def _slash(source: ExportSource) -> Any:
    """SLaSh: W_l z, constant after training, is a BEFT bias at the dense layer that it shifts."""
    from peft import BeftConfig

    trained, stock = source.trained.adapted.model, base(source)
    sites, start = modules_named(trained, ShiftedDense), _inside(stock)
    model = _wrapped(source, stock, BeftConfig(target_modules=[f"{start}{name}" for name in sites]))
    assert trained.before is not None
    trained.before(torch.empty(1, 0))
    for name, site in sites.items():
        assert site.shift is not None
        _copy(stock.get_submodule(f"{start}{name}").beft_bias[_ADAPTER], site.shift[:1])
    return model


def _own(source: ExportSource) -> Any:
    """A run of one of peft's tuners: its saved tensors, under the same names."""
    trained, stock = source.trained.adapted.model.backbone, base(source)
    config = copy.deepcopy(trained.peft_config[_ADAPTER])
    if isinstance(config.target_modules, list | set):  # without the wrappers of a stock layer
        config.target_modules = {plain(name) for name in config.target_modules}
    model, start = _wrapped(source, stock, config, source.spec.seed), _inside(stock)
    held = {**dict(stock.named_parameters()), **dict(stock.named_buffers())}
    for name, value in source.trained.adapted.state().items():
        if not name.startswith(HEAD):
            _copy(held.get(f"{start}{name.removeprefix('drawn.')}"), value)
    return model


WAYS: dict[str, Callable[[ExportSource], Any]] = {"lora": _lora, "slash": _slash, "peft": _own}


def _inside(stock: Any) -> str:
    """Where the model's backbone is inside `stock`, as the start of names."""
    return "" if stock.base_model is stock else f"{stock.base_model_prefix}."


def _wrapped(source: ExportSource, stock: Any, config: Any, seed: int = 0) -> Any:
    """`stock`, changed in place, with the layers of a tuner."""
    from peft import get_peft_model

    torch.manual_seed(seed)
    config.task_type = source.objective.export.peft_task
    try:
        return get_peft_model(stock, config, adapter_name=_ADAPTER).eval()
    except (TypeError, ValueError, AttributeError, RuntimeError, LookupError) as error:
        said = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"an adapter must fit the stock layers, got of peft: {said}; pass --format hf") from None


@torch.no_grad()
def _copy(to: Tensor | None, value: Tensor) -> None:
    if to is None or to.shape != value.shape:
        found = "no place" if to is None else f"the shape {tuple(to.shape)}"
        raise UserError(
            f"an adapter must have the run's tensors, got {found} for one of {tuple(value.shape)}; install the peft "
            "that the run was trained with, or pass --format hf"
        )
    to.copy_(value)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Silence warnings and progress bars of peft's tuners."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
