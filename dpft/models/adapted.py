"""The interface of a method, and the adapted model that it returns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dpft import objectives
from dpft.data.batch import Batch
from dpft.errors import UserError
from dpft.models.architectures import Dense, architecture, replace
from dpft.models.base import AdaptableModel
from dpft.objectives import Objective

Gradients = Literal["hooks", "ghost", "single"]


class CannotMerge(ValueError):
    """Raised, with the reason, where a method cannot be merged into the stock model's weights."""


@dataclass(frozen=True)
class Traits:
    """A method's row in the paper's table 1: parameter sharing, efficient inference, multi-layer."""

    parameter_sharing: bool
    efficient_inference: bool
    multi_layer: bool


@dataclass(frozen=True)
class AdaptedModel:
    """A model with a method attached: gradients of `private` are privatised, the optimizer updates `updated`.

    `named` maps names to the private parameters of `model`. `losses` gives one loss per example:
    (B, outputs) -> (B,), as the `objective` defines it. `gradients`: how the clipped sum is computed: per-example
    gradients by hooks, ghost clipping, or one example at a time. `frozen`: the head's input never changes, so it may
    be cached.
    """

    model: AdaptableModel
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
        found = self.objective.losses(outputs, batch.labels)
        return found if batch.shares is None else self.objective.of_windows(found, batch.shares)

    def begin(self, step: int) -> None:
        """Hook before each step, with its number from 0."""

    def rebuild(self) -> None:
        """Hook after `private` has its gradients: compute the gradients of `updated`."""

    def state(self) -> dict[str, Tensor]:
        """The tensors to save, on the CPU: trained parameters, and the statistics that standardise the head's input."""
        return {name: t.detach().cpu().contiguous() for name, t in self._saved().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Load tensors from `state`. Raises UserError on other names or shapes."""
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

    def frozen_digest(self) -> str:
        """sha256 over all parameters that are not trained."""
        trained = {id(p) for p in (*self.private, *self.updated.values())}
        total = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            if id(parameter) not in trained:
                total.update(name.encode())
                total.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return total.hexdigest()

    def check_moved(self, initial: dict[str, Tensor], frozen: str) -> None:
        """Raise UserError if no trained tensor differs from `initial`, a state; RuntimeError if a frozen one changed.

        frozen: `frozen_digest` before the first step.
        """
        now = self.state()
        if all(torch.equal(initial[name], now[name]) for name in self.updated):
            raise UserError(
                "training must move the trained parameters, got the initial ones: nothing was learned; "
                "pass a larger --learning-rate"
            )
        if self.frozen_digest() != frozen:
            raise RuntimeError("training must not change frozen parameters, got others than before the first step")

    def _saved(self) -> dict[str, Tensor]:
        return {**self.updated, **self.model.statistics()}


class Method(Protocol):
    """A fine-tuning method. Its dataclass fields are its options.

    `non_private_rate`: the learning rate without privacy; with privacy the recipe chooses the rates. `trainable` counts
    the trainable parameters that `attach` makes on a model of `config` with a head of `labels` outputs. A method that
    trains the head alone has `head_alone = True`.
    """

    @property
    def traits(self) -> Traits: ...
    @property
    def non_private_rate(self) -> float: ...
    def attach(self, model: AdaptableModel, seed: int) -> AdaptedModel: ...
    def merge(self, model: AdaptableModel) -> nn.Module: ...
    def trainable(self, config: Any, labels: int) -> int: ...


@runtime_checkable
class FoldableModule(Protocol):
    """A module that replaces a stock one; `folded` is the stock module with the trained change merged."""

    def folded(self) -> nn.Module: ...


def attached(
    model: AdaptableModel, learned: Iterable[tuple[str, nn.Parameter]], *, gradients: Gradients = "hooks"
) -> AdaptedModel:
    """The adapted model, where only `learned` and the head (if there is one) are trainable."""
    named = {**dict(learned), **model.head_parameters()}
    model.requires_grad_(False)
    for parameter in named.values():
        parameter.requires_grad_(True)
    model.train()
    return AdaptedModel(model, named, gradients=gradients)


def modules_named(model: AdaptableModel, kind: type[nn.Module]) -> dict[str, Any]:
    """All modules of a type in the backbone, by their stock names."""
    return {plain(name): module for name, module in model.backbone.named_modules() if isinstance(module, kind)}


def plain(name: str) -> str:
    """A name in the backbone without the wrappers that the last block, or a stock layer, may have."""
    return f"{name}.".replace(".block.", ".").replace(".stock.", ".").rstrip(".")


def way(model: AdaptableModel, denses: Iterable[Dense]) -> Gradients:
    """The gradient mode: hooks, but one example at a time where a dense layer also reads a table shared by examples."""
    return "single" if architecture(model.backbone.config).tables & set(denses) else "hooks"


@torch.no_grad()
def fold(model: AdaptableModel, biased: Dense | None = None) -> nn.Module:
    """A copy of the stock model with every `FoldableModule` module folded: the same outputs as `model`.

    biased: the dense layers that get a bias by it.
    """
    if model.before is not None:
        model.before(torch.empty(1, 0))
    stock = model.stock()
    if biased is not None:
        model.with_biases(stock, biased)
    for name, module in list(stock.named_modules()):
        if isinstance(module, FoldableModule):
            replace(stock, name, module.folded())
    return model.completed(stock)


def with_bias(dense: nn.Linear, bias: Tensor) -> nn.Linear:
    """`dense` with `bias` added. Raises CannotMerge where the stock layer has none."""
    if dense.bias is None:
        raise CannotMerge("the stock class has no place for a bias in these dense layers")
    dense.bias.add_(bias.to(dense.bias.dtype))
    return dense


def check_count(name: str, value: int, most: int | None = None, example: int = 1) -> None:
    """Raise UserError for an option that is not a whole number from 1 to `most`."""
    if value < 1 or (most is not None and value > most):
        rule = "a whole number above 0" if most is None else f"from 1 to {most}"
        raise UserError(f"{name} must be {rule}, got {value}; pass --option {name}={example}")


def check_size(name: str, value: float, example: str) -> None:
    """Raise UserError for a factor that is not finite, or too large for float32 activations."""
    if not abs(value) <= 1e6:
        raise UserError(f"{name} must lie between -1e6 and 1e6, got {value}; pass --option {name}={example}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise UserError for an option that is not among `choices`."""
    if value not in choices:
        raise UserError(f"{name} must be one of {', '.join(choices)}, got {value!r}; pass --option {name}={choices[0]}")
