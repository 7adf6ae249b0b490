"""What the auditor observes in released sums: the noise of each tensor and the coordinate of each canary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpft.audit.mechanism.canary_gradients import CanaryModel, RowSettings
from dpft.audit.mechanism.driver import Release
from dpft.data.encoded import Encoded
from dpft.models.adapted import AdaptedModel

_SAMPLED = 8192  # numbers kept of each release over all tensors: enough for every test but the deviation
_LEAST = 64


class Canaries(Protocol):
    """m canaries with known, orthogonal clipped gradients. Sums are by tensor, in units of the clipping norm."""

    @property
    def data(self) -> Encoded: ...
    @property
    def row_settings(self) -> RowSettings: ...

    def __len__(self) -> int: ...

    def model(self, adapted: AdaptedModel, clip: float) -> CanaryModel:
        """The model under audit, in which these rows have their gradients."""

    def rescaled(self, scales: Mapping[str, Tensor]) -> Canaries:
        """The same rows in a scaled space, where each gradient is scaled, then clipped."""

    def scores(self, sums: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """Each canary's coordinate in a release: (m,)."""

    def without(self, sums: Mapping[str, Tensor], drawn: NDArray[np.int64]) -> dict[str, Tensor]:
        """A release without the clipped sum of the sampled rows: its noise."""


class Observations:
    """Collects releases in units of the clipping norm. The known clipped sum of sampled canaries is subtracted."""

    def __init__(self, canaries: Canaries, names: list[str], clip: float, noise: float) -> None:
        self.canaries, self.names, self.clip, self.noise = canaries, names, clip, noise
        self.squares = dict.fromkeys(names, 0.0)
        self.counts = dict.fromkeys(names, 0)
        self.steps: list[float] = []  # each release's squares, over all tensors
        self.scores: list[NDArray[np.float64]] = []
        self.drawn: list[NDArray[np.bool_]] = []
        self._kept: list[list[NDArray[np.float64]]] = []

    def add(self, release: Release) -> None:
        """Add one release: the canaries that were sampled, and the noisy sums, one a private tensor."""
        rows, canaries = release.rows, self.canaries
        if release.scales is not None:
            canaries = canaries.rescaled(dict(zip(self.names, release.scales, strict=True)))
        sums = {name: noisy / self.clip for name, noisy in zip(self.names, release.sums, strict=True)}
        self.scores.append(canaries.scores(sums))
        kept, total = [], 0.0
        for name, left in canaries.without(sums, rows).items():
            left /= self.noise
            squares = float(left.square().sum())
            self.squares[name] += squares
            total += squares
            self.counts[name] += left.numel()
            most = max(_LEAST, _SAMPLED // len(self.names))
            kept.append(left.flatten()[:most].numpy().copy())
        self._kept.append(kept)
        self.steps.append(total)
        self.drawn.append(np.isin(np.arange(len(self.canaries)), rows))

    @property
    def parts(self) -> list[NDArray[np.float64]]:
        """For each tensor, part of its noise over the planned deviation: (steps, n_i)."""
        return [np.stack([step[i] for step in self._kept]) for i in range(len(self.names))]

    @property
    def sample(self) -> NDArray[np.float64]:
        """All `parts` side by side: (steps, sum of n_i)."""
        return np.concatenate(self.parts, axis=1)


def names_of(named: dict[str, torch.nn.Parameter]) -> list[str]:
    """Names of the private tensors, in the order of their releases."""
    return list(named)
