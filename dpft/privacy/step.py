"""One private step: per-example gradients, one clip over all of them, one noise, one update."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from dpft.privacy.ledger import Event, Ledger
from dpft.privacy.plan import Plan
from dpft.privacy.secret import Secret

Batch = TypeVar("Batch")
Batch_contra = TypeVar("Batch_contra", contravariant=True)


class Trainable(Protocol[Batch_contra]):
    """What a step needs of an adapted model: its module, its private parameters, a loss per example."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def private(self) -> Sequence[nn.Parameter]: ...
    def losses(self, outputs: Tensor, batch: Batch_contra) -> Tensor: ...


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


def _exact(parameters: Sequence[nn.Parameter]) -> torch.autocast:
    """Turns off autocast, which would clip and sum in 8 bits of mantissa: the sensitivity would exceed the clip."""
    return torch.autocast(parameters[0].device.type, enabled=False)


class PrivateStep(Generic[Batch]):
    """Charge, clip, sum, noise, divide, update: DP-SGD's step (Abadi et al. 2016) on a logical batch.

    The sum is taken over any number of micro-batches; the noise (std plan.noise * plan.clip) is drawn once
    a call from `secret` and the divisor is the declared `plan.expected_batch`, whatever was drawn. The
    ledger is charged before the noisy sum exists.
    """

    def __init__(
        self,
        adapted: Trainable[Batch],
        plan: Plan,
        optimizer: torch.optim.Optimizer,
        ledger: Ledger,
        secret: Secret,
        run: str,
    ) -> None:
        if plan.clip is None or plan.noise <= 0:
            raise ValueError("a private step needs a private plan, got one without noise; use PlainStep")
        self.adapted, self.plan, self.clip, self.optimizer = adapted, plan, plan.clip, optimizer
        self.ledger, self.secret, self.run = ledger, secret, run
        self.wrapped = GradSampleModule(adapted.model, batch_first=True, loss_reduction="sum", strict=True)

    def __call__(self, step: int, microbatches: Iterable[Batch]) -> None:
        """Take step number `step` (from 0) on a logical batch cut into `microbatches`, possibly none."""
        with _exact(self.adapted.private):
            total = self._sum(microbatches)
        self.ledger.charge(Event(run=self.run, step=step, rate=self.plan.rate, noise=self.plan.noise))
        for parameter, summed in zip(self.adapted.private, total, strict=True):
            noisy = summed.double() + self._noise(summed)
            parameter.grad = (noisy / self.plan.expected_batch).to(parameter.dtype)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Take the hooks off the model again."""
        self.wrapped.remove_hooks()

    def _sum(self, microbatches: Iterable[Batch]) -> list[Tensor]:
        wide = [torch.promote_types(p.dtype, torch.float32) for p in self.adapted.private]
        total = [torch.zeros_like(p, dtype=t) for p, t in zip(self.adapted.private, wide, strict=True)]
        for batch in microbatches:
            for whole, part in zip(total, clipped_sum(self._gradients(batch), self.clip), strict=True):
                whole += part
        return total

    def _gradients(self, batch: Batch) -> list[Tensor]:
        """Per-example gradients of each private parameter: [(B, ...), ...]. Leaves nothing on the parameters."""
        with warnings.catch_warnings():
            # A shared vector's module has no input that requires grad; its hook needs its output's alone.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            losses = self.adapted.losses(self.wrapped(batch), batch)
            if losses.dim() != 1:
                raise RuntimeError(f"a loss must be one number per example, got shape {tuple(losses.shape)}")
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

    def _noise(self, like: Tensor) -> Tensor:
        drawn = torch.from_numpy(self.secret.normal(math.prod(like.shape))).reshape(like.shape)
        return (drawn * (self.plan.noise * self.clip)).to(like.device)


class PlainStep(Generic[Batch]):
    """The same step without clipping and noise. NOT PRIVATE: for comparison only."""

    def __init__(self, adapted: Trainable[Batch], plan: Plan, optimizer: torch.optim.Optimizer) -> None:
        self.adapted, self.plan, self.optimizer = adapted, plan, optimizer

    def __call__(self, step: int, microbatches: Iterable[Batch]) -> None:
        """Take one step on the sum of the losses over the declared batch size."""
        for batch in microbatches:
            loss = self.adapted.losses(self.adapted.model(batch), batch).sum()
            (loss / self.plan.expected_batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Nothing to take off."""
