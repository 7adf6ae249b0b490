"""Noise tolerance of each trainable tensor: how far it may move before the outputs change. Measured on public texts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from dpft.data.batch import Batch
from dpft.models.adapted import AdaptedModel
from dpft.spec import HEAD

_SEED = 5
_FIRST, _TRIES, _NEAR = 1e-3, 12, 1.5
_MOST = 10.0  # the tolerance of a tensor that has no effect even at this size
_LEAST = 1e-2  # share of the drift below which a change may be rounding
_BLOCKS = 12  # of deeper models not every block is measured: neighbours are alike


def tolerances(adapted: AdaptedModel, public: Sequence[Batch], drift: float) -> dict[str, float]:
    """For each trainable tensor, the deviation of noise on its coordinates that moves what the head reads by `drift`.

    `drift` is the root mean square change over the public texts, in units of their spread. A shift that is common to
    all texts does not count, because the head learns to remove it. First the tensors that have an effect by themselves
    are measured at their initial values. Then come those that act through others (LoRA's A while B is zero), with the
    others moved by noise of the size found. The head's tensors are left out. All tensors are restored. No training row
    is read, so this costs no privacy.
    """
    tensors = {name: p for name, p in adapted.updated.items() if not name.startswith(HEAD)}
    generator = torch.Generator().manual_seed(_SEED)
    noise = {name: torch.randn(p.shape, generator=generator).to(p) for name, p in tensors.items()}
    kept = {name: p.detach().clone() for name, p in tensors.items()}
    try:
        found = _measured(adapted, public, tensors, noise, drift)
        left = {name: p for name, p in tensors.items() if name not in found}
        if left and found:
            _move(tensors, noise, found)
            found |= _measured(adapted, public, left, noise, drift)
    finally:
        with torch.no_grad():
            for name, p in tensors.items():
                p.copy_(kept[name])
            _reads(adapted, public[:1])  # recompute what depends on the tensors
    return {name: found.get(name, _MOST) for name in tensors}


def _measured(
    adapted: AdaptedModel, public: Sequence[Batch], tensors: Mapping[str, nn.Parameter], noise: Mapping[str, Tensor],
    drift: float,
) -> dict[str, float]:  # fmt: skip
    """The tolerances of those `tensors` that have an effect by themselves.

    Of the tensors of one kind, one in each block, at most _BLOCKS are measured, in even distances; those in between get
    the geometric interpolation. Each search begins at the size that the one before it found.
    """
    start = _reads(adapted, public)
    found = {}

    def moved(name: str, size: float) -> float:
        parameter = tensors[name]
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.copy_(kept + size * noise[name])
        change = _reads(adapted, public) - start
        with torch.no_grad():
            parameter.copy_(kept)
        return float((change - change.mean(0)).square().sum(1).mean().sqrt())

    for names in _by_kind(tensors):
        places = np.unique(np.linspace(0, len(names) - 1, min(len(names), _BLOCKS)).round().astype(int))
        sizes: dict[int, float] = {}
        for place in places.tolist():
            size = _size(partial(moved, names[place]), drift, first=next(reversed(sizes.values()), _FIRST))
            if size is not None:
                sizes[place] = size
        if sizes:
            measured = [*sizes] if len(sizes) < len(places) else range(len(names))
            logs = np.interp(measured, [*sizes], np.log([*sizes.values()]))
            found.update({names[place]: float(np.exp(log)) for place, log in zip(measured, logs, strict=True)})
    return found


def _by_kind(tensors: Mapping[str, nn.Parameter]) -> list[list[str]]:
    """The tensors' names, those that differ by the number of their block together, in the order of the model."""
    kinds: dict[tuple[str, torch.Size], list[str]] = {}
    for name, parameter in tensors.items():
        kinds.setdefault((re.sub(r"(?<=\.)\d+(?=\.)", "*", name), parameter.shape), []).append(name)
    return [*kinds.values()]


def _size(moved: Callable[[float], float], drift: float, first: float = _FIRST) -> float | None:
    """The size at which `moved` is about `drift`; None if it stays below it up to _MOST. first: where to begin."""
    size = first
    for _ in range(_TRIES):
        change = moved(size)
        if not math.isfinite(change):
            size /= 10
            continue
        if drift / _NEAR <= change <= drift * _NEAR:
            return size * drift / change
        if size >= _MOST:
            return None
        step = drift / change if change > _LEAST * drift else 30.0
        size = min(_MOST, size * min(30.0, max(1 / 30.0, step)))
    return size


@torch.no_grad()
def _move(tensors: Mapping[str, nn.Parameter], noise: Mapping[str, Tensor], sizes: Mapping[str, float]) -> None:
    for name, size in sizes.items():
        tensors[name].add_(size * noise[name])


@torch.no_grad()
def _reads(adapted: AdaptedModel, public: Sequence[Batch]) -> Tensor:
    """What the head reads of every text or token, standardised (`AdaptableModel.read_for_drift`): (N, D)."""
    return torch.cat([adapted.model.read_for_drift(batch) for batch in public])
