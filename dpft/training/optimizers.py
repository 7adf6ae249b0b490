"""What moves the weights: Adam, Adam in whose geometry gradients are privatised, SGD; and each step's learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dpft.recipe import rates_of
from dpft.spec import Optimizer, Schedule, Spec

# Of the root mean square, added to each coordinate's before it divides: of 0.3, 1 and 3 the best on made-up data.
SOFTEN = 0.3
PEAK = "peak"  # of a group's learning rate, over the steps


def make(spec: Spec, updated: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of `spec` on what the method updates, by name: tensors of one learning rate are a group.

    All optimizers see noisy releases and nothing else.
    """
    assert spec.learning_rate is not None  # settled by train()
    assert spec.optimizer is not None
    rate = spec.learning_rate
    rates = rates_of(spec, updated)
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
    """Adam that is told gradients privatised in its own geometry (Ganesh, McMahan, Thakurta 2025, algorithm 8).

    Per-example gradients are multiplied by 1 / (sqrt(v) + soften), v from the steps before, then clipped together and
    noised, and the noisy sum is divided by it again (arXiv 2507.01129): noise is larger where gradients are. `soften`
    is SOFTEN times the root mean square of sqrt(v), for v itself holds noise. The scales are normalised so that, for
    the same clip, as much noise is added in all as without them: mean of 1 / scale^2 = 1. They are made of earlier
    releases alone (dpft.privacy.mechanism.step.Scaling); before the first they are 1.
    """

    @torch.no_grad()
    def scales(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """A positive factor for each coordinate: [(...), ...] float32."""
        squares = [self._second(parameter) for parameter in parameters]
        seen = [square for square in squares if square is not None]
        count = sum(square.numel() for square in seen)
        mean = float(sum(square.sum() for square in seen)) / max(count, 1)
        if not 0 < mean < math.inf:
            return [torch.ones_like(p, dtype=torch.float32) for p in parameters]
        # What has not moved yet is taken as average.
        full = [torch.full_like(p, mean, dtype=torch.float64) if s is None else s
                for p, s in zip(parameters, squares, strict=True)]  # fmt: skip
        sizes = [(square / mean).sqrt() + SOFTEN for square in full]
        total = float(sum(size.square().sum() for size in sizes)) / sum(size.numel() for size in sizes)
        return [(math.sqrt(total) / size).float() for size in sizes]

    def _second(self, parameter: nn.Parameter) -> Tensor | None:
        """Adam's bias-corrected second moment so far, in float64; None where it has seen nothing."""
        state = self.state.get(parameter)
        if not state:
            return None
        second = self.param_groups[0]["betas"][1]
        square: Tensor = state["exp_avg_sq"].double() / (1 - second ** float(state["step"]))
        return square


def set_rate(optimizer: torch.optim.Optimizer, spec: Spec, step: int, steps: int) -> None:
    """The learning rates of step `step` (from 0), of a group's peak: constant, or a warm-up and a fall to zero.

    The warm-up takes `spec.warmup` of the steps (Gupta et al. 2023, appendix C: 6 %), and one at least; the fall is a
    line or half a cosine.
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
