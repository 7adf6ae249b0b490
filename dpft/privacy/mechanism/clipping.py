"""The sum of clipped per-example gradients, in three ways: hooks, ghost clipping, one example at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from dpft.privacy.mechanism.grad_samplers import GhostModule, HooksModule, ImplicitGradient, scaled
from dpft.spec import Clipping

Gradients = Literal["hooks", "ghost", "single"]
GAMMA = 0.01  # Bu et al. 2023


class Microbatch(Protocol):
    """A micro-batch that can be sliced by rows.

    If it has `units`, (B,) numbers from 0 to K - 1, the rows of each unit are clipped together; else each row is a
    unit.
    """

    def __len__(self) -> int: ...
    def rows(self, which: Tensor | slice) -> Self: ...


Batch = TypeVar("Batch", bound=Microbatch)
Batch_contra = TypeVar("Batch_contra", contravariant=True)


class Trainable(Protocol[Batch_contra]):
    """What a step needs of an adapted model.

    `model` gives outputs for a batch, and `losses` one loss per example. The gradients with respect to the parameters
    in `private` are privatised, and computed in the way that `gradients` names. `begin` is called before each step;
    `rebuild` after `private` has its gradients, to pass them on to the parameters that the optimizer updates.
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
    """Clipping factors of per-example gradients: min(1, clip / norm), and 0 if the norm is not finite.

    Abadi et al. 2016, algorithm 1. norms: (B,) float64 -> (B,) float64.
    """
    factors = clip / norms.clamp(min=clip)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(factors))


def normalise_factors(norms: Tensor, clip: float) -> Tensor:
    """Factors that normalise every gradient to about the clipping norm: clip / (norm + gamma), 0 if not finite.

    Bu et al. 2023, "Automatic clipping" (arXiv 2206.07136). An example contributes a norm of
    clip * norm / (norm + gamma), below the clipping norm: sensitivity and charge are the same as with clipping.
    norms: (B,) float64 -> (B,) float64.
    """
    factors = clip / (norms + GAMMA)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(factors))


Factors = Callable[[Tensor, float], Tensor]
FACTORS: dict[Clipping, Factors] = {"cut": clip_factors, "normalise": normalise_factors}


def clipped_sum(gradients: Sequence[Tensor], clip: float, factors_of: Factors = clip_factors) -> list[Tensor]:
    """Sum of the clipped gradients over examples. [(B, ...), ...] -> [(...), ...] in float32 or better.

    An example whose gradient is not finite contributes nothing: it is removed, not scaled, because 0 * NaN is NaN.
    """
    gradients = [g if g.dtype == torch.float64 else g.float() for g in gradients]
    factors = factors_of(per_example_norms(gradients), clip)
    kept = factors > 0
    if not bool(kept.all()):
        gradients = [g[kept] for g in gradients]
        factors = factors[kept]
    # Elementwise: a matrix product would use TF32 or bfloat16 if the user has enabled them.
    return [scaled(g, factors).sum(0) for g in gradients]


def sum_per_unit(gradients: Sequence[Tensor], units: Tensor) -> list[Tensor]:
    """Sum the gradients over the rows of each unit, in float32 or better. units: (B,). [(B, ...)] -> [(K, ...)]"""
    count = int(units.max()) + 1 if len(units) else 0
    wide = [g if g.dtype == torch.float64 else g.float() for g in gradients]
    return [g.new_zeros(count, *g.shape[1:]).index_add_(0, units, g) for g in wide]


def apply_scales(gradients: Sequence[Tensor], scales: Scales) -> Sequence[Tensor]:
    """Multiply each coordinate by its scale, before clipping, in float32 or better. Shapes stay."""
    if scales is None:
        return gradients
    wide = [g if g.dtype == torch.float64 else g.float() for g in gradients]
    return [g * scale.to(g.dtype) for g, scale in zip(wide, scales, strict=True)]


Scales = Sequence[Tensor] | None


class Clipper(Protocol[Batch_contra]):
    """The clipped sum of one micro-batch, in the order of `private`. The parameters get no gradients.

    With `scales`, one per coordinate, gradients are scaled before they are clipped and summed.
    """

    def __call__(self, batch: Batch_contra, scales: Scales = None) -> list[Tensor]: ...
    def close(self) -> None: ...


class Hooks(Generic[Batch]):
    """Per-example gradients from Opacus' hooks, in one backward pass. Memory: B times the private parameters."""

    def __init__(self, adapted: Trainable[Batch], clip: float, factors: Factors = clip_factors) -> None:
        self.adapted, self.clip, self.factors = adapted, clip, factors
        self.wrapped = HooksModule(adapted.model, batch_first=True, loss_reduction="sum", strict=True)

    def __call__(self, batch: Batch, scales: Scales = None) -> list[Tensor]:
        gradients, units = self.per_example(batch), _units(batch)
        whole = gradients if units is None else sum_per_unit(gradients, units)
        return clipped_sum(apply_scales(whole, scales), self.clip, self.factors)

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
    """Ghost clipping: norms without per-example gradients (Li et al. 2022, section 4), then the weighted sum from each
    layer's inputs and output gradients (book-keeping, Bu et al. 2023).

    One backward pass. It stores the inputs and output gradients of each layer, so memory stays near that of a
    non-private step. A second backward pass of weighted losses would round differently from the one whose norms were
    measured: on a badly conditioned model an example's contribution was 6 % longer than the clipping norm. Not for
    parameters that are used twice, or by all examples at once.
    """

    def __init__(self, adapted: Trainable[Batch], clip: float, factors: Factors = clip_factors) -> None:
        self.adapted, self.clip, self.factors = adapted, clip, factors
        self.wrapped = GhostModule(adapted.model, batch_first=True, loss_reduction="sum", strict=True)
        modules = adapted.model.modules()
        tables = [m.weight for m in modules if isinstance(m, nn.Embedding) and m.weight.requires_grad]
        self._lowest = tables or list(adapted.private)

    def __call__(self, batch: Batch, scales: Scales = None) -> list[Tensor]:
        if scales is not None:
            raise RuntimeError("ghost norms are of gradients as they are, got scales; take gradients per example")
        if _units(batch) is not None:
            raise RuntimeError("ghost norms are of single rows, got rows that are clipped together; take one at a time")
        losses = _losses(self.adapted, self.wrapped(batch), batch)
        with _outputs_alone():  # hooks see every layer; only the lowest layers' gradients are computed
            torch.autograd.grad(losses.sum(), self._lowest)
        parts = [self._taken(parameter, losses) for parameter in self.adapted.private]
        norms = torch.linalg.vector_norm(torch.stack([part.norms.double() for part in parts]), dim=0)
        factors = self.factors(norms, self.clip)
        kept = factors > 0
        return [part.weighted(factors[kept], kept) for part in parts]

    def close(self) -> None:
        self.wrapped.remove_hooks()

    def _taken(self, parameter: Any, losses: Tensor) -> ImplicitGradient:
        """Remove and return what the hooks stored on a parameter."""
        part, parameter.part, parameter._norm_sample = getattr(parameter, "part", None), None, None
        if not isinstance(part, ImplicitGradient) or part.norms.shape != losses.shape:
            raise RuntimeError("every private parameter must take part in each example, got one without norm")
        return part


class Single(Generic[Batch]):
    """One backward pass per example (or unit): exact for every model, but slow."""

    def __init__(self, adapted: Trainable[Batch], clip: float, factors: Factors = clip_factors) -> None:
        self.adapted, self.clip, self.factors = adapted, clip, factors

    def __call__(self, batch: Batch, scales: Scales = None) -> list[Tensor]:
        total = [torch.zeros_like(p) for p in self.adapted.private]
        for one in _one_by_one(batch):
            for whole, part in zip(total, self._clipped(one, scales), strict=True):
                whole += part
        return total

    def close(self) -> None:
        """Nothing to remove."""

    def _clipped(self, one: Batch, scales: Scales) -> list[Tensor]:
        return clipped_sum(apply_scales(self._gradient(one), scales), self.clip, self.factors)

    def _gradient(self, one: Batch) -> list[Tensor]:
        losses = _losses(self.adapted, self.adapted.model(one), one)
        return [g.unsqueeze(0) for g in torch.autograd.grad(losses.sum(), list(self.adapted.private))]


def clipper(adapted: Trainable[Batch], clip: float, clipping: Clipping = "cut") -> Clipper[Batch]:
    """The clipper that `adapted.gradients` names. clip: clipping norm; clipping: how factors are computed."""
    kinds: dict[Gradients, type[Any]] = {"hooks": Hooks, "ghost": Ghost, "single": Single}
    made: Clipper[Batch] = kinds[adapted.gradients](adapted, clip, FACTORS[clipping])
    return made


def _units(batch: Microbatch) -> Tensor | None:
    return getattr(batch, "units", None)


def _one_by_one(batch: Batch) -> Iterator[Batch]:
    """Yield the rows of each unit; each row if the batch has no units."""
    units = _units(batch)
    if units is None:
        yield from (batch.rows(slice(row, row + 1)) for row in range(len(batch)))
    else:
        yield from (batch.rows(units == unit) for unit in range(int(units.max()) + 1 if len(units) else 0))


def _losses(adapted: Trainable[Batch], outputs: Tensor, batch: Batch) -> Tensor:
    losses = adapted.losses(outputs, batch)
    if losses.dim() != 1:
        raise RuntimeError(f"a loss must be one number per example, got shape {tuple(losses.shape)}")
    return losses


class _outputs_alone(warnings.catch_warnings):
    """Silence torch's warning about full backward hooks on modules whose inputs need no gradient."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
