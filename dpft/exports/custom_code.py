"""Export of runs that stock classes cannot express, with a small modelling file: modeling_dpft.py."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpft.exports import modeling_dpft, tokenizer_files
from dpft.exports.modeling_dpft import DpftConfig
from dpft.exports.source import ExportSource
from dpft.methods import CannotMerge
from dpft.methods.adapter import AdaptedDense, Bottleneck
from dpft.methods.compacter import KroneckerBottleneck
from dpft.methods.jr_warp import DeepPrompt
from dpft.methods.slash import ShiftedDense
from dpft.models.architectures import architecture, block_paths, replace
from dpft.models.prompt_slots import PromptedEmbedding

# Keys of the encoder's config that are not exported: local facts, and the precision, which the user chooses.
_LEFT_OUT = {
    "_name_or_path", "architectures", "id2label", "label2id", "transformers_version", "problem_type", "dtype",
    "torch_dtype",
}  # fmt: skip


@dataclass(frozen=True)
class EncoderParts:
    """A stock encoder, and the trained tensors that stay outside its weights, by path inside it.

    prompt: (n, D). additions, by block: (n, D). shifts, by dense layer: (D',). adapters, by dense layer.
    """

    encoder: Any
    prompt: Tensor | None
    additions: dict[str, Tensor]
    shifts: dict[str, Tensor]
    adapters: dict[str, modeling_dpft.Bottleneck]


def model(source: ExportSource) -> Any:
    """The run as the custom class of its objective, such as DpftForSequenceClassification. Raises CannotMerge where
    there is none, or it cannot express the run."""
    name = source.objective.export.custom_class
    if name is None:
        raise CannotMerge(f"runs of {source.objective.kind} have no modelling file")
    kind = getattr(modeling_dpft, name)
    parts, own = split_model(source), source.trained.tokenizer
    encoder = {key: value for key, value in parts.encoder.config.to_dict().items() if key not in _LEFT_OUT}
    config = DpftConfig(
        encoder=encoder,
        representation=source.spec.representation,
        mask=own.mask_token_id,
        separator=tokenizer_files.separator(own, source.trained.paired),
        paired=source.trained.paired,
        words=architecture(parts.encoder.config).words,
        prompts=0 if parts.prompt is None else len(parts.prompt),
        deep=list(parts.additions),
        shifts=[[path, len(shift)] for path, shift in parts.shifts.items()],
        adapters=[[path, adapter.down.out_features] for path, adapter in parts.adapters.items()],
        **labelling(source),
    )
    config.auto_map = {
        "AutoConfig": f"modeling_dpft.{DpftConfig.__name__}",
        kind.__name__.replace("Dpft", "AutoModel"): f"modeling_dpft.{kind.__name__}",
    }
    made: Any = kind(config)
    made.encoder.load_state_dict(parts.encoder.state_dict())
    made.head.load_state_dict(source.head.state_dict())
    with torch.no_grad():
        if parts.prompt is not None:
            made.prompt.copy_(parts.prompt)
        for own_list, learned in ((made.additions, parts.additions), (made.shifts, parts.shifts)):
            for parameter, value in zip(own_list, learned.values(), strict=True):
                parameter.copy_(value)
        for adapter, plain in zip(made.adapters, parts.adapters.values(), strict=True):
            adapter.load_state_dict(plain.state_dict())
    return made.eval()


def labelling(source: ExportSource) -> dict[str, Any]:
    """Config entries about the outputs: label names, or a score."""
    names = source.objective.output_names(source.labels)
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": source.objective.export.problem,
    }


def add_code(folder: Path) -> None:
    """Copy the modelling file beside the weights."""
    code = Path(modeling_dpft.__file__).read_text(encoding="utf-8")
    (folder / "modeling_dpft.py").write_text(code, encoding="utf-8")


@torch.no_grad()
def split_model(source: ExportSource) -> EncoderParts:
    """The merged encoder where the method merges, else the stock encoder and the method's own tensors."""
    try:
        return EncoderParts(source.merged(), None, {}, {}, {})
    except CannotMerge:
        pass
    model = source.trained.adapted.model
    if model.before is not None:
        model.before(torch.empty(1, 0))
    encoder: Any = model.stock()
    prompt: Tensor | None = None
    shifts, adapters = {}, {}
    for path, module in list(encoder.named_modules()):
        if isinstance(module, PromptedEmbedding):
            assert module.prompt is not None
            prompt = module.prompt[0]
            replace(encoder, path, module.words)
        elif isinstance(module, ShiftedDense):
            assert module.shift is not None
            shifts[path] = module.shift[0]
            replace(encoder, path, module.dense)
        elif isinstance(module, AdaptedDense):
            adapters[path] = plain_bottleneck(module.adapter)
            replace(encoder, path, module.dense)
    return EncoderParts(encoder, prompt, _additions(model), shifts, adapters)


def _additions(model: Any) -> dict[str, Tensor]:
    """The vectors that the method adds to each block's input at the prompts, by block."""
    if not isinstance(model.before, DeepPrompt):
        return {}
    shifts: list[Any] = [addition.shift for addition in model.before._additions]
    return dict(zip(block_paths(model.stock()), (shift[0] for shift in shifts), strict=True))


@functools.singledispatch
def plain_bottleneck(adapter: nn.Module) -> modeling_dpft.Bottleneck:
    """An adapter as two dense layers, `down` and `up`."""
    raise CannotMerge(f"an adapter of the kind {type(adapter).__name__} has no plain form")


@plain_bottleneck.register
def _of_bottleneck(adapter: Bottleneck) -> modeling_dpft.Bottleneck:
    assert adapter.down.bias is not None
    assert adapter.up.bias is not None
    return _two(adapter.down.weight, adapter.down.bias, adapter.up.weight, adapter.up.bias)


@plain_bottleneck.register
def _of_kronecker(adapter: KroneckerBottleneck) -> modeling_dpft.Bottleneck:
    """The Kronecker layers as full matrices: their outputs on the identity."""
    width, size = len(adapter.up_bias.value), len(adapter.down_bias.value)
    down, up = adapter.down(torch.eye(width)[None])[0].T, adapter.up(torch.eye(size)[None])[0].T
    return _two(down, adapter.down_bias.value, up, adapter.up_bias.value)


def _two(down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor) -> modeling_dpft.Bottleneck:
    plain = modeling_dpft.Bottleneck(up.shape[0], down.shape[0])
    for layer, weight, bias in ((plain.down, down, down_bias), (plain.up, up, up_bias)):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return plain
