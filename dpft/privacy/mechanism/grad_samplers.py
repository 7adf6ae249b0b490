"""Grad samplers for Opacus' hooks: per-example gradients, or their norms with a function for the weighted sum."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from torch import Tensor, nn


def scaled(gradients: Tensor, factors: Tensor) -> Tensor:
    """Multiply each row by its factor. gradients: (B, ...), factors: (B,) float64 -> (B, ...) in the gradients' dtype.

    Tiny factors are applied as their square root, twice: near the end of its range, float32 is off by a fifth.
    """
    shape = (-1, *[1] * (gradients.dim() - 1))
    if bool((factors < 1e-30).any()):
        roots = factors.sqrt().to(gradients.dtype).view(shape)
        return gradients * roots * roots
    return gradients * factors.to(gradients.dtype).view(shape)


@dataclass(frozen=True)
class ImplicitGradient:
    """One parameter's per-example gradients in implicit form: their norms (B,), and a function for their weighted sum.

    weighted: (factors (K,) of the rows that are kept, mask (B,) of these rows) -> the parameter's shape. Rows that are
    not finite are left out, because 0 * NaN is NaN.
    """

    norms: Tensor
    weighted: Callable[[Tensor, Tensor], Tensor]


def _at_most(norms: Tensor, lengths: Tensor, errors: Tensor) -> Tensor:
    """Upper bounds on the norms, including the rounding error of the sum over tokens, which matters if tokens cancel.

    lengths: (B,) sums of the tokens' norms. errors: (B, T, D), in the dtype of the sum.
    """
    return norms + lengths * (errors.shape[1] * torch.finfo(errors.dtype).eps)


def _linear(layer: nn.Linear, activations: list[Tensor], backprops: Tensor) -> dict[Any, ImplicitGradient]:
    """A dense layer's norms from Gram matrices, in float64. activations: [(B, ..., in)], backprops: (B, ..., out)."""
    inputs = activations[0].flatten(1, -2) if activations[0].dim() > 2 else activations[0].unsqueeze(1)
    errors = backprops.flatten(1, -2) if backprops.dim() > 2 else backprops.unsqueeze(1)
    wide, found = (inputs.double(), errors.double()), {}
    if layer.weight.requires_grad:
        squared = (wide[0] @ wide[0].mT * (wide[1] @ wide[1].mT)).sum((1, 2))
        # Keep NaN, but do not turn a rounding error below zero into NaN.
        norms = torch.where(squared < 0, torch.zeros_like(squared), squared).sqrt()
        lengths = (wide[0].norm(dim=2) * wide[1].norm(dim=2)).sum(1)

        def weighted(factors: Tensor, kept: Tensor) -> Tensor:
            return scaled(errors[kept], factors).flatten(0, 1).T @ inputs[kept].flatten(0, 1)

        found[layer.weight] = ImplicitGradient(_at_most(norms, lengths, errors), weighted)
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = _explicit(errors.sum(1))
    return found


def _table(layer: nn.Embedding, activations: list[Tensor], backprops: Tensor) -> dict[Any, ImplicitGradient]:
    """An embedding's norms; repeated tokens of a row are added up. activations: [(B, ...)], backprops: (B, ..., D)."""
    ids, errors = activations[0].flatten(1), backprops.flatten(1, -2)
    rows = torch.arange(len(ids), device=ids.device).unsqueeze(1).expand_as(ids)
    pairs, places = torch.unique(torch.stack([rows.flatten(), ids.flatten()]), dim=1, return_inverse=True)
    summed = errors.new_zeros(pairs.shape[1], errors.shape[-1], dtype=torch.float64)
    summed.index_add_(0, places, errors.flatten(0, 1).double())
    squared = torch.zeros(len(ids), device=ids.device, dtype=torch.float64)
    squared.index_add_(0, pairs[0], summed.square().sum(1))

    def weighted(factors: Tensor, kept: Tensor) -> Tensor:
        summed = scaled(errors[kept], factors).flatten(0, 1)
        return torch.zeros_like(layer.weight).index_add_(0, ids[kept].flatten(), summed)

    lengths = errors.double().norm(dim=2).sum(1)
    return {layer.weight: ImplicitGradient(_at_most(squared.sqrt(), lengths, errors), weighted)}


def _explicit(gradients: Tensor) -> ImplicitGradient:
    """The Part of explicit per-example gradients, for small parameters: (B, ...)."""

    def weighted(factors: Tensor, kept: Tensor) -> Tensor:
        return scaled(gradients[kept], factors).sum(0)

    return ImplicitGradient(torch.linalg.vector_norm(gradients.flatten(1), dim=1, dtype=torch.float64), weighted)


def _norm_layer_gradients(
    layer: nn.LayerNorm, activations: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """(B, ..., D) -> {parameter: (B, D)}. Opacus' own sampler does not support layers without a bias."""
    found: dict[Any, Tensor] = {}
    if layer.weight.requires_grad:
        normed = nn.functional.layer_norm(activations[0], layer.normalized_shape, eps=layer.eps)
        found[layer.weight] = (normed * backprops).flatten(1, -2).sum(1)
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = backprops.flatten(1, -2).sum(1)
    return found


def _rms_norm_gradients(layer: Any, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """(B, ..., D) -> {weight: (B, D)}: the same whether the factor is the weight, or 1 + weight (Gemma)."""
    eps = layer.variance_epsilon if hasattr(layer, "variance_epsilon") else layer.eps
    wide = activations[0].float()  # as the layers do, whatever the model's precision
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return {layer.weight: (normed.to(backprops.dtype) * backprops).flatten(1, -2).sum(1)}


# Of transformers: x / sqrt(mean(x^2) + eps) in float32, times the weight, or 1 + weight.
RMS_NORMS = frozenset({
    "LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm", "Phi3RMSNorm",
    "Olmo2RMSNorm", "SmolLM3RMSNorm",
})  # fmt: skip


def is_rms_norm(layer: nn.Module) -> bool:
    """Whether the layer is of a class in RMS_NORMS."""
    return type(layer) in _RmsNorms()


class _RmsNorms(dict[Any, Any]):
    """The sampler of every class in RMS_NORMS, known by name: privacy loads no transformers."""

    def __contains__(self, kind: object) -> bool:
        of = str(getattr(kind, "__module__", ""))
        return getattr(kind, "__name__", "") in RMS_NORMS and of.startswith("transformers.models.")

    def __missing__(self, kind: type[nn.Module]) -> Any:
        if kind not in self:
            raise KeyError(kind)
        return _rms_norm_gradients


class HooksModule(GradSampleModule):  # type: ignore[misc]
    """Opacus' module, also for layer norms without a bias and for the RMSNorm classes of transformers."""

    # A view, not a copy: layers register later, when their modules are imported.
    GRAD_SAMPLERS: ClassVar[Any] = ChainMap(
        {nn.LayerNorm: _norm_layer_gradients}, _RmsNorms(), GradSampleModule.GRAD_SAMPLERS
    )


class _NormSamplers:
    """Norm samplers by layer type: they store a Part on each parameter and return its norms to Opacus."""

    def __contains__(self, kind: type[nn.Module]) -> bool:
        return kind in HooksModule.GRAD_SAMPLERS

    def __getitem__(self, kind: type[nn.Module]) -> Callable[..., dict[Any, Tensor]]:
        def sampler(layer: Any, activations: list[Tensor], backprops: Tensor) -> dict[Any, Tensor]:
            if kind in _CHEAPLY:
                parts = _CHEAPLY[kind](layer, activations, backprops)
            else:
                made = HooksModule.GRAD_SAMPLERS[kind](layer, activations, backprops)
                parts = {parameter: _explicit(gradient) for parameter, gradient in made.items()}
            for parameter, part in parts.items():
                parameter.part = part
            return {parameter: part.norms for parameter, part in parts.items()}

        return sampler


_CHEAPLY: dict[type[nn.Module], Callable[..., dict[Any, ImplicitGradient]]] = {nn.Linear: _linear, nn.Embedding: _table}


class GhostModule(GradSampleModuleFastGradientClipping):  # type: ignore[misc]
    """Opacus' module for ghost clipping, with our norm samplers."""

    GRAD_SAMPLERS: ClassVar[Any] = HooksModule.GRAD_SAMPLERS
    NORM_SAMPLERS: ClassVar[Any] = _NormSamplers()
