"""Which tensors a step releases: the head alone in a run's first steps, where it asks for that; then all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Protocol

from dpft.data.batch import Batch
from dpft.methods._method import Adapted
from dpft.spec import HEAD, Spec, UserError


class Step(Protocol):
    """One step on a logical batch, private or not."""

    def __call__(self, step: int, microbatches: Iterable[Batch]) -> None: ...
    def close(self) -> None: ...


class Phased:
    """Steps below `first` on the head alone, all others on everything: a linear probe first (Kumar et al. 2022).

    A step on the head is the same mechanism on fewer coordinates: the clip is over them all, the noise is the plan's,
    the charge is the same. When the second phase starts is fixed with the spec and looks at no data. What it buys: in
    the first phase none of the clip, and none of the noise, goes to a method that has nothing to go by yet.
    """

    def __init__(self, adapted: Adapted, first: int, make: Callable[[Adapted], Step]) -> None:
        self.adapted, self.first, self.make = adapted, first, make
        self._step: Step | None = None
        self._alone: bool | None = None

    def __call__(self, step: int, microbatches: Iterable[Batch]) -> None:
        """Take step number `step` (from 0)."""
        alone = step < self.first
        if self._step is None or alone != self._alone:
            self._switch(alone)
        assert self._step is not None
        self._step(step, microbatches)

    def close(self) -> None:
        """Take the hooks off the model again, and leave everything trainable."""
        if self._step is not None:
            self._step.close()
            self._step = None
        for parameter in self.adapted.private:
            parameter.requires_grad_(True)

    def _switch(self, alone: bool) -> None:
        self.close()
        trained = head_alone(self.adapted) if alone else self.adapted
        for name, parameter in self.adapted.named.items():
            parameter.requires_grad_(name in trained.named)
        self._step, self._alone = self.make(trained), alone


def head_alone(adapted: Adapted) -> Adapted:
    """The same model with the head's parameters as all that is private."""
    return dataclasses.replace(adapted, named={n: p for n, p in adapted.named.items() if n.startswith(HEAD)})


def check(spec: Spec, adapted: Adapted) -> None:
    """Refuse options that do not fit the method, before anything is spent. Raises UserError."""
    if spec.probe_first and all(name.startswith(HEAD) for name in adapted.named):
        raise UserError(
            f"probe-first goes with a method that trains more than the head, got {spec.method!r}; drop --probe-first"
        )
    if spec.optimizer not in ("adam_bc", "adam_scaled"):
        return
    if {id(p) for p in adapted.updated.values()} != {id(p) for p in adapted.private}:
        raise UserError(
            f"{spec.optimizer} needs to know the noise of each number it moves, got {spec.method!r}, which mixes "
            "it; pass --optimizer adam"
        )
    if spec.optimizer == "adam_scaled" and adapted.gradients == "ghost":
        raise UserError(
            f"adam_scaled needs a gradient for each example, got {spec.method!r}, which takes norms alone; "
            "pass --optimizer adam"
        )
