"""The clipped sum of per-example gradients, three ways: all at once, by their norms alone, one after the other."""

from __future__ import annotations

import warnings
from collections import ChainMap
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from torch import Tensor, nn

Gradients = Literal["hooks", "ghost", "single"]


class Rows(Protocol):
    """A micro-batch: it has a length, and some of its rows can be taken."""

    def __len__(self) -> int: ...
    def rows(self, which: Tensor | slice) -> Self: ...


Batch = TypeVar("Batch", bound=Rows)
Batch_contra = TypeVar("Batch_contra", contravariant=True)


class Trainable(Protocol[Batch_contra]):
    """What a step needs of an adapted model.

    `model` gives outputs for a batch, `losses` one loss per example, and their gradient with respect to the
    parameters in `private` is privatised, in the way `gradients` names. `begin` is called before each step;
    `rebuild` once `private` has its gradients, to hand them on to what the optimizer moves.
    """

    @property
    def model(self) -> nn.Module: ...
    @property
    def private(self) -> Sequence[nn.Parameter]: ...
    @property
    def gradients(self) -> Gradients: ...
    def losses(self, outputs: Tensor, batch: Batch_contra) -> Tensor: ...
    def begin(self, step: int) -> None: ...
    def rebuild(self) -> None: ...


def per_example_norms(gradients: Sequence[Tensor]) -> Tensor:
    """L2 norm of each example's gradient over all parameters together. [(B, ...), ...] -> (B,) float64."""
    parts = [torch.linalg.vector_norm(g.flatten(1), dim=1, dtype=torch.float64) for g in gradients]
    norms: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    return norms


def clip_factors(norms: Tensor, clip: float) -> Tensor:
    """What each example's gradient is multiplied by: min(1, clip / norm), and 0 where the norm is not finite.

    Abadi et al. 2016, algorithm 1. norms: (B,) float64 -> (B,) float64.
    """
    factors = clip / norms.clamp(min=clip)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(factors))


def clipped_sum(gradients: Sequence[Tensor], clip: float) -> list[Tensor]:
    """Sum over examples of the clipped gradients. [(B, ...), ...] -> [(...), ...] in float32 or better.

    An example whose gradient is not finite adds nothing: 0 * NaN is NaN, so it is replaced, not scaled.
    """
    gradients = [g if g.dtype == torch.float64 else g.float() for g in gradients]
    factors = clip_factors(per_example_norms(gradients), clip)
    kept = factors > 0
    if not bool(kept.all()):
        gradients = [g[kept] for g in gradients]
        factors = factors[kept]
    # Elementwise: a matrix product would take TF32 or bfloat16 where somebody has allowed them.
    return [(g * factors.to(g.dtype).view(-1, *[1] * (g.dim() - 1))).sum(0) for g in gradients]


class Clipper(Protocol[Batch_contra]):
    """The clipped sum of one micro-batch, in the order of `private`. Leaves nothing on the parameters."""

    def __call__(self, batch: Batch_contra) -> list[Tensor]: ...
    def close(self) -> None: ...


class Hooks(Generic[Batch]):
    """Per-example gradients from Opacus' hooks, in one backward pass. Memory: B times the private parameters."""

    def __init__(self, adapted: Trainable[Batch], clip: float) -> None:
        self.adapted, self.clip = adapted, clip
        self.wrapped = _HooksModule(adapted.model, batch_first=True, loss_reduction="sum", strict=True)

    def __call__(self, batch: Batch) -> list[Tensor]:
        return clipped_sum(self.per_example(batch), self.clip)

    def close(self) -> None:
        self.wrapped.remove_hooks()

    def per_example(self, batch: Batch) -> list[Tensor]:
        """[(B, ...), ...]"""
        with _outputs_alone():
            losses = _losses(self.adapted, self.wrapped(batch), batch)
            losses.sum().backward()
        gradients = []
        parameter: Any  # Opacus adds grad_sample
        for parameter in self.adapted.private:
            gradient = parameter.grad_sample
            if not isinstance(gradient, Tensor):
                raise RuntimeError("every private parameter must take part in each example, got one without gradient")
            if gradient.shape[0] != losses.shape[0]:
                raise RuntimeError("a gradient must be per example, got another number of rows")
            gradients.append(gradient)
            parameter.grad_sample, parameter.grad = None, None
        return gradients


class Ghost(Generic[Batch]):
    """Norms without gradients, then one backward pass of the weighted losses (Li et al. 2022, section 4).

    Memory: that of a step that is not private. Not for parameters that are used twice, or by all examples at once.
    """

    def __init__(self, adapted: Trainable[Batch], clip: float) -> None:
        self.adapted, self.clip = adapted, clip
        self.wrapped = _GhostModule(adapted.model, batch_first=True, loss_reduction="sum", strict=True)
        modules = adapted.model.modules()
        tables = [m.weight for m in modules if isinstance(m, nn.Embedding) and m.weight.requires_grad]
        self._lowest = tables or list(adapted.private)

    def __call__(self, batch: Batch) -> list[Tensor]:
        losses = self._forward(batch)
        factors = clip_factors(self._norms(losses), self.clip)
        kept = factors > 0
        self.wrapped.disable_hooks()
        if bool(kept.all()):
            (losses * factors.to(losses.dtype)).sum().backward()
        elif bool(kept.any()):  # 0 * NaN is NaN: such rows are left out, not weighted
            losses = self._forward(batch.rows(kept))
            (losses * factors[kept].to(losses.dtype)).sum().backward()
        self.wrapped.enable_hooks()
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.adapted.private]
        for parameter in self.adapted.private:
            parameter.grad = None
        return found

    def close(self) -> None:
        self.wrapped.remove_hooks()

    def _forward(self, batch: Batch) -> Tensor:
        return _losses(self.adapted, self.wrapped(batch), batch)

    def _norms(self, losses: Tensor) -> Tensor:
        """(B,) float64. The hooks see what reaches each layer's output; only the lowest layers' gradients are made."""
        with _outputs_alone():
            torch.autograd.grad(losses.sum(), self._lowest, retain_graph=True)
        parts = []
        parameter: Any  # Opacus adds _norm_sample
        for parameter in self.adapted.private:
            norms = getattr(parameter, "_norm_sample", None)
            if norms is None or norms.shape != losses.shape:
                raise RuntimeError("every private parameter must take part in each example, got one without norm")
            parts.append(norms.double())
            parameter._norm_sample = None
        whole: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
        return whole


class Single(Generic[Batch]):
    """One backward pass per example: exact for every model, and as slow as it sounds."""

    def __init__(self, adapted: Trainable[Batch], clip: float) -> None:
        self.adapted, self.clip = adapted, clip

    def __call__(self, batch: Batch) -> list[Tensor]:
        total = [torch.zeros_like(p) for p in self.adapted.private]
        for row in range(len(batch)):
            for whole, part in zip(total, clipped_sum(self._gradient(batch.rows(slice(row, row + 1))), self.clip),
                                   strict=True):  # fmt: skip
                whole += part
        return total

    def close(self) -> None:
        """Nothing to take off."""

    def _gradient(self, one: Batch) -> list[Tensor]:
        losses = _losses(self.adapted, self.adapted.model(one), one)
        return [g.unsqueeze(0) for g in torch.autograd.grad(losses.sum(), list(self.adapted.private))]


def clipper(adapted: Trainable[Batch], clip: float) -> Clipper[Batch]:
    """The way `adapted.gradients` names."""
    kinds: dict[Gradients, type[Any]] = {"hooks": Hooks, "ghost": Ghost, "single": Single}
    made: Clipper[Batch] = kinds[adapted.gradients](adapted, clip)
    return made


def _losses(adapted: Trainable[Batch], outputs: Tensor, batch: Batch) -> Tensor:
    losses = adapted.losses(outputs, batch)
    if losses.dim() != 1:
        raise RuntimeError(f"a loss must be one number per example, got shape {tuple(losses.shape)}")
    return losses


class _outputs_alone(warnings.catch_warnings):
    """A module without an input that requires grad gets its hook called all the same; torch warns each time."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message="Full backward hook is firing")


def _linear_norms(layer: nn.Linear, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """Norms of a dense layer's per-example gradients from its Gram matrices (Li et al. 2022, section 4).

    activations: [(B, ..., in)], backprops: (B, ..., out) -> {parameter: (B,)}. In float64: where tokens cancel,
    float32 would find too small a norm, and the clip would let too much through.
    """
    inputs = activations[0].flatten(1, -2) if activations[0].dim() > 2 else activations[0].unsqueeze(1)
    errors = backprops.flatten(1, -2) if backprops.dim() > 2 else backprops.unsqueeze(1)
    inputs, errors = inputs.double(), errors.double()
    found: dict[Any, Tensor] = {}
    if layer.weight.requires_grad:
        squared = (inputs @ inputs.mT * (errors @ errors.mT)).sum((1, 2))
        # A NaN stays one; rounding below zero does not become one.
        found[layer.weight] = torch.where(squared < 0, torch.zeros_like(squared), squared).sqrt()
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = errors.sum(1).norm(dim=1)
    return found


def _norm_layer_gradients(
    layer: nn.LayerNorm, activations: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """(B, ..., D) -> {parameter: (B, D)}. Opacus' own takes no layer without a bias."""
    found: dict[nn.Parameter, Tensor] = {}
    if layer.weight.requires_grad:
        normed = nn.functional.layer_norm(activations[0], layer.normalized_shape, eps=layer.eps)
        found[layer.weight] = (normed * backprops).flatten(1, -2).sum(1)
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = backprops.flatten(1, -2).sum(1)
    return found


class _HooksModule(GradSampleModule):  # type: ignore[misc]
    """Opacus' module, with layer norms without a bias."""

    # A view, not a copy: layers are registered as their modules are imported.
    GRAD_SAMPLERS: ClassVar[Any] = ChainMap({nn.LayerNorm: _norm_layer_gradients}, GradSampleModule.GRAD_SAMPLERS)


class _GhostModule(GradSampleModuleFastGradientClipping):  # type: ignore[misc]
    """Opacus' module with dense layers' norms in float64, and layer norms without a bias."""

    GRAD_SAMPLERS: ClassVar[Any] = _HooksModule.GRAD_SAMPLERS
    NORM_SAMPLERS: ClassVar[Any] = ChainMap(
        {nn.Linear: _linear_norms}, GradSampleModuleFastGradientClipping.NORM_SAMPLERS
    )
