"""What moves the weights: Adam or SGD; and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from dpft.recipe import rates_of
from dpft.spec import Optimizer, Schedule, Spec

PEAK = "peak"  # of a group's learning rate, over the steps


def make(spec: Spec, updated: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of `spec` on what the method updates, by name: tensors of one learning rate are a group.

    All optimizers see noisy releases and nothing else.
    """
    assert spec.learning_rate is not None  # settled by train()
    rate = spec.learning_rate
    rates = rates_of(spec, updated)
    alike: dict[float, list[nn.Parameter]] = {}
    for name, parameter in updated.items():
        alike.setdefault(rates[name], []).append(parameter)
    groups = [{"params": some, PEAK: peak} for peak, some in alike.items()]
    kinds: dict[Optimizer, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(groups, lr=rate),  # Kingma and Ba 2015
        "sgd": lambda: torch.optim.SGD(groups, lr=rate, momentum=0.9),
    }
    return kinds[spec.optimizer]()


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
