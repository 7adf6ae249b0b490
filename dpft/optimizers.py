"""What moves the weights: Adam, two private kinds of it, or SGD; and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dpft.privacy.plan import Plan
from dpft.recipe import rates_of
from dpft.spec import Optimizer, Schedule, Spec

FLOOR = 0.1  # of the noise's variance: what is left of a second moment at least
# Of the root mean square, added to each coordinate's before it divides: of 0.3, 1 and 3 the best on made-up data.
SOFTEN = 0.3
PEAK = "peak"  # of a group's learning rate, over the steps


def make(spec: Spec, plan: Plan, updated: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of `spec` on what the method updates, by name: tensors of one learning rate are a group.

    All optimizers see noisy releases and nothing else.
    """
    assert spec.learning_rate is not None  # settled by train()
    rate, known = spec.learning_rate, noise_variance(plan)
    rates = rates_of(spec, updated)
    alike: dict[float, list[nn.Parameter]] = {}
    for name, parameter in updated.items():
        alike.setdefault(rates[name], []).append(parameter)
    groups = [{"params": some, PEAK: peak} for peak, some in alike.items()]
    kinds: dict[Optimizer, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(groups, lr=rate),  # Kingma and Ba 2015
        "adam_bc": lambda: CorrectedAdam(groups, rate, known),
        "adam_scaled": lambda: ScaledAdam(groups, lr=rate),
        "sgd": lambda: torch.optim.SGD(groups, lr=rate, momentum=0.9),
    }
    return kinds[spec.optimizer]()


def noise_variance(plan: Plan) -> float:
    """Of each coordinate of a release: (noise * clip / expected batch)^2. Public; 0 where nothing is private."""
    return 0.0 if plan.clip is None else (plan.noise * plan.clip / plan.expected_batch) ** 2


class CorrectedAdam(torch.optim.Optimizer):
    """DP-AdamBC: Adam whose second moment is freed of the noise that is known to be in it (Tang et al. 2023).

    w -= rate * m / sqrt(max(v - variance, floor)), with Adam's bias-corrected m and v (arXiv 2312.14334)
    and floor = FLOOR * variance, Adam's own 1e-16 at least. Post-processing of releases by a public number: no charge.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]], lr: float, variance: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": (0.9, 0.999)})
        self.variance, self.floor = variance, max(FLOOR * variance, 1e-16)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state, gradient, (first, second) = self.state[parameter], parameter.grad, group["betas"]
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        taken = int(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        mean, square = state["exp_avg"] / (1 - first**taken), state["exp_avg_sq"] / (1 - second**taken)
        parameter.addcdiv_(mean, (square - self.variance).clamp(min=self.floor).sqrt(), value=-group["lr"])


class ScaledAdam(torch.optim.Adam):
    """Adam that is told gradients privatised in its own geometry (Ganesh, McMahan, Thakurta 2025, algorithm 8).

    Per-example gradients are multiplied by 1 / (sqrt(v) + soften), v from the steps before, then clipped together and
    noised, and the noisy sum is divided by it again (arXiv 2507.01129): noise is larger where gradients are. `soften`
    is SOFTEN times the root mean square of sqrt(v), for v itself holds noise. The scales are normalised so that, for
    the same clip, as much noise is added in all as without them: mean of 1 / scale^2 = 1. They are made of earlier
    releases alone (dpft.privacy.step.Scaling); before the first they are 1.
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
