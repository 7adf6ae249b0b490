"""Optimizers (Adam, Adam with gradients privatised in its own geometry, SGD) and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dpft.recipe import learning_rates
from dpft.spec import Optimizer, Schedule, Spec

# Added to each coordinate's divisor, in root mean squares: the best of 0.3, 1 and 3 on synthetic data.
SOFTEN = 0.3
PEAK = "peak"  # key of a parameter group: its highest learning rate over all steps


def make(spec: Spec, updated: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of `spec` for the parameters that the method updates.

    `updated`: parameters by name; those with the same learning rate form a group. An optimizer sees only noisy
    releases.
    """
    assert spec.learning_rate is not None  # set by train()
    assert spec.optimizer is not None
    rate = spec.learning_rate
    rates = learning_rates(spec, updated)
    alike: dict[float, list[nn.Parameter]] = {}
    for name, parameter in updated.items():
        alike.setdefault(rates[name], []).append(parameter)
    groups = [{"params": some, PEAK: peak} for peak, some in alike.items()]
    kinds: dict[Optimizer, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(groups, lr=rate),  # Kingma and Ba 2015
        "adam_scaled": lambda: ScaledAdam(groups, lr=rate),
        "sgd": lambda: torch.optim.SGD(groups, lr=rate, momentum=0.9),
    }
    return kinds[spec.optimizer]()


class ScaledAdam(torch.optim.Adam):
    """Adam on gradients that are privatised in its own geometry (Ganesh, McMahan, Thakurta 2025, algorithm 8).

    Per-example gradients are multiplied by scale = 1 / (sqrt(v) + soften), with v from earlier steps. Then they are
    clipped and noised, and the noisy sum is divided by the scale (arXiv 2507.01129). So coordinates with larger
    gradients get more noise. `soften` is SOFTEN times the root mean square of sqrt(v), because v itself contains
    noise. The scales are normalised to a mean of 1 / scale^2 = 1, so that the total noise is the same as without them
    at the same clipping norm. They depend only on earlier releases (dpft.privacy.mechanism.step.Scaling); before the
    first release they are 1.
    """

    @torch.no_grad()
    def scales(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """A positive factor for each coordinate, float32, in the shapes of `parameters`."""
        squares = [self._second(parameter) for parameter in parameters]
        seen = [square for square in squares if square is not None]
        count = sum(square.numel() for square in seen)
        mean = float(sum(square.sum() for square in seen)) / max(count, 1)
        if not 0 < mean < math.inf:
            return [torch.ones_like(p, dtype=torch.float32) for p in parameters]
        # A parameter without history is assumed to be average.
        full = [torch.full_like(p, mean, dtype=torch.float64) if s is None else s
                for p, s in zip(parameters, squares, strict=True)]  # fmt: skip
        sizes = [(square / mean).sqrt() + SOFTEN for square in full]
        total = float(sum(size.square().sum() for size in sizes)) / sum(size.numel() for size in sizes)
        return [(math.sqrt(total) / size).float() for size in sizes]

    def _second(self, parameter: nn.Parameter) -> Tensor | None:
        """Adam's bias-corrected second moment, in float64; None before the first step."""
        state = self.state.get(parameter)
        if not state:
            return None
        second = self.param_groups[0]["betas"][1]
        square: Tensor = state["exp_avg_sq"].double() / (1 - second ** float(state["step"]))
        return square


def set_rate(optimizer: torch.optim.Optimizer, spec: Spec, step: int, steps: int) -> None:
    """Set the learning rate of each group for step `step` (from 0): warm-up, then constant, linear or cosine decay.

    The warm-up takes the share `spec.warmup` of the steps (Gupta et al. 2023, appendix C: 6 %), at least one step. The
    decay ends at zero.
    """
    warm = max(1, round(spec.warmup * steps))
    rising, falling = min(1.0, (step + 1) / warm), max(0.0, (step - warm) / max(1, steps - warm))
    shapes: dict[Schedule, float] = {
        "constant": rising,
        "linear": rising * (1 - falling),
        "cosine": rising * (1 + math.cos(math.pi * falling)) / 2,
    }
    for group in optimizer.param_groups:
        group["lr"] = group[PEAK] * shapes[spec.schedule]
