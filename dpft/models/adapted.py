"""The contract of a method, and what it hands back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dpft import objectives
from dpft.data.batch import Batch
from dpft.errors import UserError
from dpft.models.architectures import Dense, architecture, replace
from dpft.models.classifier import Classifier
from dpft.objectives import Objective

Gradients = Literal["hooks", "ghost", "single"]


class CannotMerge(ValueError):
    """Why a method's result cannot be written into the stock model's own weights."""


@dataclass(frozen=True)
class Traits:
    """A method's row of the paper's table 1: what it shares, what it costs once trained, where it acts."""

    parameter_sharing: bool
    efficient_inference: bool
    multi_layer: bool


@dataclass(frozen=True)
class Adapted:
    """A model with a method inside: gradients are privatised on `private`, the optimizer moves `updated`.

    `named` maps names to the private parameters of `model`. `losses` gives one loss per example:
    (B, outputs) -> (B,), as the `objective` has it. `gradients` is the way to the clipped sum: per-example gradients by
    hooks, by ghost clipping, or one example at a time. `frozen`: what the head reads never changes, so it may be kept.
    """

    model: Classifier
    named: dict[str, nn.Parameter]
    objective: Objective = field(default_factory=lambda: objectives.plain(1))
    gradients: Gradients = "hooks"
    frozen: bool = False

    @property
    def private(self) -> Sequence[nn.Parameter]:
        return list(self.named.values())

    @property
    def updated(self) -> dict[str, nn.Parameter]:
        return self.named

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return self.objective.losses(outputs, batch.labels)

    def begin(self, step: int) -> None:
        """Called before each step, with its number from 0."""

    def rebuild(self) -> None:
        """Called once `private` has its gradients: give `updated` theirs."""

    def state(self) -> dict[str, Tensor]:
        """All that has to be saved, on the CPU: the trained tensors, and what the head's input is standardised by."""
        return {name: t.detach().cpu().contiguous() for name, t in self._saved().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take the tensors that `state` gave. Raises UserError on other names or shapes."""
        found = {name: tuple(t.shape) for name, t in state.items()}
        wanted = {name: tuple(t.shape) for name, t in self._saved().items()}
        if found != wanted:
            name = min(dict(found.items() ^ wanted.items()))
            raise UserError(
                f"the saved tensor {name!r} must be {wanted.get(name, 'absent')}, got {found.get(name, 'none')}; "
                "the run is of another model"
            )
        with torch.no_grad():
            for name, tensor in self._saved().items():
                tensor.copy_(state[name])

    def _saved(self) -> dict[str, Tensor]:
        return {**self.updated, "head.center": self.model.center, "head.spread": self.model.spread}


class Method(Protocol):
    """One way to adapt a model. Its dataclass fields are its options.

    `non_private_rate` is its learning rate without privacy; with it the rates are the recipe's. `trainable` counts what
    `attach` would train on a model of `config` with a head for `labels` outputs. A method that trains nothing but the
    head has `head_alone`, which is true.
    """

    @property
    def traits(self) -> Traits: ...
    @property
    def non_private_rate(self) -> float: ...
    def attach(self, model: Classifier, seed: int) -> Adapted: ...
    def merge(self, model: Classifier) -> nn.Module: ...
    def trainable(self, config: Any, labels: int) -> int: ...


@runtime_checkable
class Folds(Protocol):
    """A module put in the place of a stock one: `folded` is that stock module with what was learned inside."""

    def folded(self) -> nn.Module: ...


def attached(
    model: Classifier, learned: Iterable[tuple[str, nn.Parameter]], *, gradients: Gradients = "hooks"
) -> Adapted:
    """`model` with the head and `learned` alone trainable."""
    named = {**dict(learned), **dict(model.head.named_parameters(prefix="head"))}
    model.requires_grad_(False)
    for parameter in named.values():
        parameter.requires_grad_(True)
    model.train()
    return Adapted(model, named, gradients=gradients)


def modules_named(model: Classifier, kind: type[nn.Module]) -> dict[str, Any]:
    """The modules of a type inside the backbone, by their stock names."""
    return {plain(name): module for name, module in model.backbone.named_modules() if isinstance(module, kind)}


def plain(name: str) -> str:
    """A name inside the backbone as it would be without what the last block may be wrapped in."""
    return name.replace(".block.", ".")


def way(model: Classifier, denses: Iterable[Dense]) -> Gradients:
    """Hooks, but one at a time where a touched dense layer also takes a table that all examples share."""
    return "single" if architecture(model.backbone.config).tables & set(denses) else "hooks"


@torch.no_grad()
def fold(model: Classifier) -> nn.Module:
    """A copy of the stock backbone with everything that `Folds` folded: the same outputs as `model`."""
    if model.before is not None:
        model.before(torch.empty(1, 0))
    backbone = model.stock()
    for name, module in list(backbone.named_modules()):
        if isinstance(module, Folds):
            replace(backbone, name, module.folded())
    return backbone


def with_bias(dense: nn.Linear, bias: Tensor) -> nn.Linear:
    """`dense` with `bias` added. Raises CannotMerge where the stock layer has none."""
    if dense.bias is None:
        raise CannotMerge("this architecture's dense layers have no bias that could take it up")
    dense.bias.add_(bias.to(dense.bias.dtype))
    return dense


def check_count(name: str, value: int, most: int | None = None, example: int = 1) -> None:
    """Refuse an option that is not a whole number from 1 to `most`."""
    if value < 1 or (most is not None and value > most):
        rule = "a whole number above 0" if most is None else f"from 1 to {most}"
        raise UserError(f"{name} must be {rule}, got {value}; pass --option {name}={example}")


def check_size(name: str, value: float, example: str) -> None:
    """Refuse a factor that is not finite, or beyond what float32 can carry through a model."""
    if not abs(value) <= 1e6:
        raise UserError(f"{name} must lie between -1e6 and 1e6, got {value}; pass --option {name}={example}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse an option that is none of `choices`."""
    if value not in choices:
        raise UserError(f"{name} must be one of {', '.join(choices)}, got {value!r}; pass --option {name}={choices[0]}")
