"""Per-example gradients of third-party layers: each example runs the layer with its own copy of the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dpft.models.architectures import replace
from dpft.models.base import AdaptableModel
from dpft.models.shared_vector import PerExample


class CopiedLayer(nn.Module):
    """A layer that takes some of its parameters from outside: one set for all examples, or one for each.

    `copies`: (1 or B, *shape) by parameter name. With one set for each, the layer runs on every example separately:
    by torch.func.vmap, or `looped`, one after the other. Its own parameters are placeholders.
    """

    def __init__(self, tuned: nn.Module, looped: bool = False) -> None:
        super().__init__()
        self.tuned, self._looped = tuned, looped
        self.copies: dict[str, Tensor] = {}

    def forward(self, hidden: Tensor) -> Tensor:
        if all(len(copy) == 1 for copy in self.copies.values()):
            return self._run({name: copy[0] for name, copy in self.copies.items()}, hidden)
        if self._looped:
            rows = range(len(hidden))
            return torch.stack([self._one({n: c[i] for n, c in self.copies.items()}, hidden[i]) for i in rows])
        out: Tensor = torch.func.vmap(self._one)(self.copies, hidden)
        return out

    def _one(self, values: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        return self._run(values, hidden.unsqueeze(0)).squeeze(0)

    def _run(self, values: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(self.tuned, dict(values), (hidden,))
        return out

    @torch.no_grad()
    def settled(self) -> nn.Module:
        """The layer, with the outside values written to its own parameters."""
        for name, copy in self.copies.items():
            self.tuned.get_parameter(name).copy_(copy[0])
        return self.tuned


class Copies(nn.Module):
    """Hands each value to the layers that use it, one copy per row: rows (B, 0)."""

    def __init__(self, values: Sequence[Tensor], uses: Sequence[tuple[CopiedLayer, dict[str, int]]]) -> None:
        super().__init__()
        self.values = nn.ModuleList(PerExample(value) for value in values)
        self._uses = tuple(uses)  # a tuple: they are registered in the backbone, and only there

    def forward(self, rows: Tensor) -> None:
        made = [value(rows) for value in self.values]
        for layer, numbers in self._uses:
            layer.copies = {name: made[number] for name, number in numbers.items()}


class Float32Layer(nn.Module):
    """A layer that computes in float32 inside a backbone that does not."""

    def __init__(self, wide: nn.Module) -> None:
        super().__init__()
        self.wide = wide.float()

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.wide(hidden.float())
        return out.to(hidden.dtype)


def widen(backbone: nn.Module, kind: type[Any]) -> None:
    """Wrap every layer of `kind` in Wide."""
    for path, layer in list(backbone.named_modules()):
        if isinstance(layer, kind):
            replace(backbone, path, Float32Layer(layer))


def unwrapped(backbone: nn.Module) -> nn.Module:
    """`backbone` with Copied and Wide unwrapped; the layers hold their trained values."""
    for path, site in list(backbone.named_modules()):
        if isinstance(site, CopiedLayer):
            replace(backbone, path, site.settled())
    for path, site in list(backbone.named_modules()):
        if isinstance(site, Float32Layer):
            replace(backbone, path, site.wide)
    return backbone


def bare(name: str) -> str:
    """A parameter's name without the wrappers Copied and Wide."""
    return name.replace(".wide.", ".").replace(".tuned.", ".")


def with_copies(
    model: AdaptableModel, names: Sequence[str], kind: type[Any], looped: bool = False
) -> list[nn.Parameter]:
    """Wrap every layer of `kind` that holds one of the backbone's parameters `names` in Copied.

    Returns the parameters to train instead, in the order of `names`. Raises RuntimeError where a parameter is in no
    such layer.
    """
    parameters = dict(model.backbone.named_parameters())
    numbers = {id(parameters[name]): number for number, name in enumerate(names)}
    uses, used = [], set()
    for path, layer in list(model.backbone.named_modules()):
        if not isinstance(layer, kind):
            continue
        inside = {n: numbers[id(p)] for n, p in layer.named_parameters() if id(p) in numbers}
        if inside:
            site = CopiedLayer(layer, looped)
            replace(model.backbone, path, site)
            uses.append((site, inside))
            used |= set(inside.values())
    if len(used) < len(names):
        raise RuntimeError("a parameter outside of the tuner's layers")
    copies = Copies([parameters[name].detach().float().clone() for name in names], uses)
    model.backbone.requires_grad_(False)
    model.before = copies.to(model.device)
    model.train()
    return [value.value for value in copies.values]  # type: ignore[misc]
