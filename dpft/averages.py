"""Averages of the weights over steps: what a run hands out in the place of its last weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dpft.spec import average_of


@dataclass
class Average:
    """A running average of `parameters` from step `first` on: each new value counts `weight(n)`, n = 1, 2, ….

    Computed from weights that were released already: post-processing, which costs no privacy (Dwork and Roth 2014,
    proposition 2.1). `taken`: how many values it holds.
    """

    parameters: Mapping[str, nn.Parameter]
    first: float
    weight: Callable[[int], float]
    taken: int = 0
    values: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Take in the weights after step `step` (from 0)."""
        if step < self.first:
            return
        self.taken += 1
        for name, parameter in self.parameters.items():
            mean = self.values.setdefault(name, torch.zeros_like(parameter, requires_grad=False))
            mean.lerp_(parameter, self.weight(self.taken))

    @torch.no_grad()
    def apply(self) -> None:
        """Give the parameters their averages; nothing where none was taken."""
        for name, mean in self.values.items():
            self.parameters[name].copy_(mean)

    def restore(self, values: Mapping[str, Tensor], taken: int) -> None:
        """Go on from what a checkpoint holds."""
        self.taken = taken
        self.values = {name: value.to(self.parameters[name].device) for name, value in values.items()}


def make(spelled: str, parameters: Mapping[str, nn.Parameter], steps: int) -> Average:
    """The average that `spelled` names, of a run of `steps` steps.

    ema:D, an exponential moving average of decay D, freed of its start as Adam's moments are: it weighs the value n
    by (1 - D) / (1 - D^n). tail:S, the plain mean over the last share S of the steps (Polyak and Juditsky 1992).
    """
    kind, value = average_of(spelled)
    if kind == "ema":
        return Average(parameters, 0, lambda n: (1 - value) / (1 - value**n))
    if kind == "tail":
        return Average(parameters, steps - max(1, round(value * steps)), lambda n: 1 / n)
    return Average(parameters, math.inf, lambda _: 0.0)
