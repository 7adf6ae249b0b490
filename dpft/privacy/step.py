"""One private step: the clipped sum of a logical batch, one noise, one update."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dpft.privacy.clipping import Batch, Trainable, clipper
from dpft.privacy.ledger import Event, Ledger
from dpft.privacy.plan import Plan
from dpft.privacy.secret import Secret


def _exact(parameters: Sequence[nn.Parameter]) -> torch.autocast:
    """Turns off autocast, which would clip and sum in 8 bits of mantissa: the sensitivity would exceed the clip."""
    return torch.autocast(parameters[0].device.type, enabled=False)


@runtime_checkable
class Scaling(Protocol):
    """An optimizer in whose geometry gradients are clipped and noised: "scale, then privatise".

    `scales` gives a positive factor for each coordinate, from earlier releases alone. Given these it is a constant, so
    that a step is still one Gaussian mechanism of sensitivity `clip` and is charged as such (adaptive composition).
    """

    def scales(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]: ...


class PrivateStep(Generic[Batch]):
    """Charge, clip, sum, noise, divide, update: DP-SGD's step (Abadi et al. 2016) on a logical batch.

    The sum is taken over any number of micro-batches; the noise (std plan.noise * plan.clip) is drawn once
    a call from `secret` and the divisor is the declared `plan.expected_batch`, whatever was drawn. The
    ledger is charged before the noisy sum exists. Where the optimizer is a `Scaling`, all of this happens to scaled
    gradients; the noisy sum is then divided by `scales`, which is post-processing.
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
        self.clipper = clipper(adapted, plan.clip, plan.clipping)
        self.scales: list[Tensor] | None = None

    def __call__(self, step: int, microbatches: Iterable[Batch]) -> None:
        """Take step number `step` (from 0) on a logical batch cut into `microbatches`, possibly none."""
        self.adapted.begin(step)
        if isinstance(self.optimizer, Scaling):
            self.scales = self.optimizer.scales(self.adapted.private)
        with _exact(self.adapted.private):
            total = self._sum(microbatches)
        self.ledger.charge(Event(run=self.run, step=step, rate=self.plan.rate, noise=self.plan.noise))
        for number, (parameter, summed) in enumerate(zip(self.adapted.private, total, strict=True)):
            noisy = summed.double() + self._noise(summed)
            if self.scales is not None:
                noisy /= self.scales[number].double()
            parameter.grad = (noisy / self.plan.expected_batch).to(parameter.dtype)
        self.adapted.rebuild()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Take the hooks off the model again."""
        self.clipper.close()

    def _sum(self, microbatches: Iterable[Batch]) -> list[Tensor]:
        wide = [torch.promote_types(p.dtype, torch.float32) for p in self.adapted.private]
        total = [torch.zeros_like(p, dtype=t) for p, t in zip(self.adapted.private, wide, strict=True)]
        for batch in microbatches:
            for whole, part in zip(total, self.clipper(batch, self.scales), strict=True):
                whole += part
        return total

    def _noise(self, like: Tensor) -> Tensor:
        drawn = torch.from_numpy(self.secret.normal(math.prod(like.shape))).reshape(like.shape)
        return (drawn * (self.plan.noise * self.clip)).to(like.device)


class PlainStep(Generic[Batch]):
    """The same step without clipping and noise. NOT PRIVATE: for comparison only."""

    def __init__(self, adapted: Trainable[Batch], plan: Plan, optimizer: torch.optim.Optimizer) -> None:
        self.adapted, self.plan, self.optimizer = adapted, plan, optimizer

    def __call__(self, step: int, microbatches: Iterable[Batch]) -> None:
        """Take one step on the sum of the losses over the declared batch size."""
        self.adapted.begin(step)
        for batch in microbatches:
            loss = self.adapted.losses(self.adapted.model(batch), batch).sum()
            (loss / self.plan.expected_batch).backward()
        self.adapted.rebuild()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Nothing to take off."""
