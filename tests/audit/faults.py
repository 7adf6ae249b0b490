"""The faults that an audit must find, each put into a copy of the mechanism."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from torch import Tensor

from dpft.audit.mechanism.driver import Mechanism
from dpft.models.adapted import AdaptedModel
from dpft.privacy.mechanism.clipping import Hooks, clipped_sum
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.mechanism.poisson_sampler import poisson_batches
from dpft.privacy.mechanism.step import PrivateStep
from dpft.privacy.randomness import Secret


class HalvedNoise(PrivateStep[Any]):
    def _noise(self, like: Tensor) -> Tensor:
        return super()._noise(like) / 2


class MissingOnOneTensor(PrivateStep[Any]):
    def _noise(self, like: Tensor) -> Tensor:
        return super()._noise(like) * (like.shape != self.adapted.private[0].shape)


class RepeatedNoise(PrivateStep[Any]):
    def _noise(self, like: Tensor) -> Tensor:
        kept = self.__dict__.setdefault("kept", {})
        return kept.setdefault(like.shape, super()._noise(like))


class SharedNoise(PrivateStep[Any]):
    """Every tensor takes the first numbers of one vector."""

    def __call__(self, step: int, microbatches: Any) -> None:
        self.common = torch.from_numpy(self.secret.normal(10_000))
        super().__call__(step, microbatches)

    def _noise(self, like: Tensor) -> Tensor:
        return self.common[: like.numel()].reshape(like.shape) * self.plan.noise * self.clip


class UniformNoise(PrivateStep[Any]):
    def _noise(self, like: Tensor) -> Tensor:
        return (torch.rand(like.shape, dtype=torch.float64) * 2 - 1) * math.sqrt(3) * self.plan.noise * self.clip


class CoarseNoise(PrivateStep[Any]):
    def _noise(self, like: Tensor) -> Tensor:
        return super()._noise(like).bfloat16().double()


class NoClipping(PrivateStep[Any]):
    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.clipper.clip = 1e30


class ClippedMicrobatches(PrivateStep[Any]):
    """The micro-batch's sum is clipped, not each example."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        hooks = self.clipper
        assert isinstance(hooks, Hooks)
        self.clipper = Swapped(hooks, lambda b: clipped_sum([g.sum(0, True) for g in hooks.per_example(b)], self.clip))


class ClippedTensors(PrivateStep[Any]):
    """Each tensor's gradient is clipped by itself."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        hooks = self.clipper
        assert isinstance(hooks, Hooks)
        self.clipper = Swapped(hooks, lambda b: [clipped_sum([g], self.clip)[0] for g in hooks.per_example(b)])


@dataclasses.dataclass
class Swapped:
    """A clipper with another sum."""

    hooks: Hooks[Any]
    sum: Callable[[Any], list[Tensor]]

    def __call__(self, batch: Any, scales: Any = None) -> list[Tensor]:
        return self.sum(batch)

    def close(self) -> None:
        self.hooks.close()


class NoisyMicrobatches(PrivateStep[Any]):
    """Noise is added once for each micro-batch."""

    def _sum(self, microbatches: Any) -> list[Tensor]:
        batches = list(microbatches)
        total = super()._sum(batches)
        for _ in batches[1:]:
            total = [whole + self._noise(whole) for whole in total]
        return total


class DrawnDivisor(PrivateStep[Any]):
    """The sum is divided by the size drawn."""

    def __call__(self, step: int, microbatches: Any) -> None:
        batches = list(microbatches)
        plan, drawn = self.plan, max(1, sum(len(b) for b in batches))
        self.plan = dataclasses.replace(plan, expected_batch=drawn)
        super().__call__(step, batches)
        self.plan = plan


class Leftovers(PrivateStep[Any]):
    """The last micro-batch is kept for the next step as well."""

    kept: tuple[Any, ...] = ()

    def __call__(self, step: int, microbatches: Any) -> None:
        batches = list(microbatches)
        super().__call__(step, [*self.kept, *batches])
        self.kept = tuple(batches[-1:])


class Uncharged(PrivateStep[Any]):
    """The third step is not charged."""

    def __call__(self, step: int, microbatches: Any) -> None:
        ledger = self.ledger
        if step == 2:
            self.ledger = Deaf()  # type: ignore[assignment]
        super().__call__(step, microbatches)
        self.ledger = ledger


class Deaf:
    def charge(self, event: object) -> None:
        """Forget it."""


def shuffled(examples: int, plan: Plan, secret: Secret, start: int = 0) -> Iterator[Any]:
    """Epochs of a shuffled order, cut into batches of the expected size."""
    rng, size, left = np.random.default_rng(), max(1, round(plan.rate * examples)), np.empty(0, np.int64)
    for _ in range(start, plan.steps):
        if len(left) < size:
            left = rng.permutation(examples)
        yield left[:size]
        left = left[size:]


def fixed_size(examples: int, plan: Plan, secret: Secret, start: int = 0) -> Iterator[Any]:
    """A fresh batch of the expected size, without replacement."""
    rng, size = np.random.default_rng(), max(1, round(plan.rate * examples))
    for _ in range(start, plan.steps):
        yield rng.choice(examples, size, replace=False)


def loader_rate(examples: int, plan: Plan, secret: Secret, start: int = 0) -> Iterator[Any]:
    """One over the number of batches in an epoch, rounded up, as a data loader counts them."""
    plan = dataclasses.replace(plan, rate=1 / math.ceil(1 / plan.rate))
    yield from poisson_batches(examples, plan, secret, start)


class MeanLoss(AdaptedModel):
    """Each loss is divided by the size of its micro-batch."""

    def losses(self, outputs: Tensor, batch: Any) -> Tensor:
        return super().losses(outputs, batch) / len(batch)


class Seeded(Secret):
    """The same stream each time."""

    def _rekey(self) -> None:
        super()._rekey()
        self._stream = Cipher(AES256(bytes(32)), CTR(bytes(16))).encryptor()


MECHANISMS: dict[str, Mechanism] = {
    "noise halved": Mechanism(step=HalvedNoise),
    "noise missing on one tensor": Mechanism(step=MissingOnOneTensor),
    "noise repeated over steps": Mechanism(step=RepeatedNoise),
    "noise shared by tensors": Mechanism(step=SharedNoise),
    "uniform noise": Mechanism(step=UniformNoise),
    "bf16 noise": Mechanism(step=CoarseNoise),
    "no clipping": Mechanism(step=NoClipping),
    "clip per micro-batch": Mechanism(step=ClippedMicrobatches),
    "clip per tensor": Mechanism(step=ClippedTensors),
    "noise once per micro-batch": Mechanism(step=NoisyMicrobatches),
    "divisor = drawn batch size": Mechanism(step=DrawnDivisor),
    "leftovers join the next step": Mechanism(step=Leftovers),
    "a step not charged": Mechanism(step=Uncharged),
    "shuffled instead of Poisson": Mechanism(sampler=shuffled),
    "fixed batch size": Mechanism(sampler=fixed_size),
    "rate taken from the loader": Mechanism(sampler=loader_rate),
    "resumed noise equal to earlier noise": Mechanism(secret=Seeded),
}
