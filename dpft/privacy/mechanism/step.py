"""One private step: the clipped sum of a logical batch over all ranks, noise, and one update."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dpft.machine.team import SINGLE_PROCESS, Team
from dpft.privacy.ledger import Event, Ledger
from dpft.privacy.mechanism.clipping import Batch, Trainable, clipper
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.randomness import Secret


def _no_autocast(parameters: Sequence[nn.Parameter]) -> torch.autocast:
    """Disable autocast: clipping and summing with 8 bits of mantissa would let the sensitivity exceed the clip."""
    return torch.autocast(parameters[0].device.type, enabled=False)


@runtime_checkable
class Scaling(Protocol):
    """An optimizer whose gradients are clipped and noised in its own geometry: "scale, then privatise".

    `scales` gives a positive factor for each coordinate, from earlier releases alone. Given these, it is a constant: a
    step is still one Gaussian mechanism of sensitivity `clip`, and is charged as such (adaptive composition).
    """

    def scales(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]: ...


def _begin(adapted: Trainable[Batch], ranks: Team, step: int) -> None:
    """Call `adapted.begin`. Parameters that it changes (RGP's carriers) are copied from rank 0 to all ranks."""
    before = [parameter._version for parameter in adapted.private]
    adapted.begin(step)
    ranks.copy_from_first([p for p, version in zip(adapted.private, before, strict=True) if p._version != version])


class SharedStep(Generic[Batch]):
    """Each rank's part of a private step: sum its clipped gradients, and update with the gradient that rank 0 releases.

    The sum is taken over any number of micro-batches, then over the ranks. If the optimizer is a `Scaling`, gradients
    are scaled first; each rank computes the same scales from the same releases.
    """

    def __init__(
        self, adapted: Trainable[Batch], plan: Plan, optimizer: torch.optim.Optimizer, ranks: Team = SINGLE_PROCESS
    ) -> None:
        if plan.clip is None or plan.noise <= 0:
            raise ValueError("a private step needs a private plan, got one without noise; use PlainStep")
        self.adapted, self.plan, self.clip, self.optimizer = adapted, plan, plan.clip, optimizer
        self.ranks = ranks
        self.clipper = clipper(adapted, plan.clip, plan.clipping)
        self.scales: list[Tensor] | None = None

    def __call__(self, step: int, microbatches: Iterable[Batch]) -> None:
        """Take step number `step` (from 0) on this rank's rows of a logical batch, cut into any `microbatches`."""
        _begin(self.adapted, self.ranks, step)
        if isinstance(self.optimizer, Scaling):
            self.scales = self.optimizer.scales(self.adapted.private)
        with _no_autocast(self.adapted.private):
            own = self._sum(microbatches)
        self.ranks.on_first_then_barrier(lambda: self._charge(step))
        total = self.ranks.total_over_ranks(own)
        released = self.ranks.broadcast_from_first(lambda: self._release(total), self.adapted.private)
        for parameter, gradient in zip(self.adapted.private, released, strict=True):
            parameter.grad = gradient
        self.adapted.rebuild()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Remove the hooks from the model."""
        self.clipper.close()

    def _sum(self, microbatches: Iterable[Batch]) -> list[Tensor]:
        # In float64: in float32, removing one of 100,000 rows changed the sum by 1.003 clipping norms.
        total = [torch.zeros_like(p, dtype=torch.float64) for p in self.adapted.private]
        for batch in microbatches:
            for whole, part in zip(total, self.clipper(batch, self.scales), strict=True):
                whole += part
        return total

    def _charge(self, step: int) -> None:
        raise RuntimeError("only the first rank has a ledger, got a charge on another")

    def _release(self, total: list[Tensor]) -> list[Tensor]:
        raise RuntimeError("only the first rank has noise, got a release on another")


class PrivateStep(SharedStep[Batch]):
    """Charge, clip, sum, noise, divide, update: DP-SGD's step (Abadi et al. 2016) on a logical batch.

    The noise (standard deviation plan.noise * plan.clip) is drawn once per call from `secret`. The divisor is the
    declared `plan.expected_batch`, whatever was drawn. The ledger is charged before the noisy sum exists, and before
    other ranks send their part of the sum. If gradients are scaled, the noisy sum is divided by `scales`, which is
    post-processing.
    """

    def __init__(
        self,
        adapted: Trainable[Batch],
        plan: Plan,
        optimizer: torch.optim.Optimizer,
        ledger: Ledger,
        secret: Secret,
        run: str,
        ranks: Team = SINGLE_PROCESS,
    ) -> None:
        super().__init__(adapted, plan, optimizer, ranks)
        self.ledger, self.secret, self.run = ledger, secret, run

    def _charge(self, step: int) -> None:
        self.ledger.charge(Event(run=self.run, step=step, rate=self.plan.rate, noise=self.plan.noise))

    def _release(self, total: list[Tensor]) -> list[Tensor]:
        """The noisy gradient: (sum + noise) / expected batch size, in the parameters' dtype."""
        released = []
        for number, (parameter, total_over_ranks) in enumerate(zip(self.adapted.private, total, strict=True)):
            noisy = total_over_ranks.double() + self._noise(total_over_ranks)
            if self.scales is not None:
                noisy /= self.scales[number].double()
            released.append((noisy / self.plan.expected_batch).to(parameter.dtype))
        return released

    def _noise(self, like: Tensor) -> Tensor:
        drawn = torch.from_numpy(self.secret.normal(math.prod(like.shape))).reshape(like.shape)
        return (drawn * (self.plan.noise * self.clip)).to(like.device)


class NonPrivateStep(Generic[Batch]):
    """The same step without clipping and noise. NOT PRIVATE: for comparison only."""

    def __init__(
        self, adapted: Trainable[Batch], plan: Plan, optimizer: torch.optim.Optimizer, ranks: Team = SINGLE_PROCESS
    ) -> None:
        self.adapted, self.plan, self.optimizer, self.ranks = adapted, plan, optimizer, ranks

    def __call__(self, step: int, microbatches: Iterable[Batch]) -> None:
        """Take one step on the sum of the losses over the declared batch size."""
        _begin(self.adapted, self.ranks, step)
        for batch in microbatches:
            loss = self.adapted.losses(self.adapted.model(batch), batch).sum()
            (loss / self.plan.expected_batch).backward()
        private = self.adapted.private
        total = self.ranks.total_over_ranks([torch.zeros_like(p) if p.grad is None else p.grad for p in private])
        for parameter, gradient in zip(private, self.ranks.broadcast_from_first(lambda: total, private), strict=True):
            parameter.grad = gradient
        self.adapted.rebuild()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Nothing to remove."""
