"""Finds by trial, on placeholder rows, how per-example gradients of a third-party model can be computed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from dpft.data.batch import Batch
from dpft.data.words import IGNORED
from dpft.models.base import AdaptableModel

Way = Literal["hooks", "copies", "loops", "single"]
Copying = Callable[[AdaptableModel, Sequence[str]], list[nn.Parameter]]
# In float32, gradients that are right agree to 1e-5; wrong ones are off by a factor, a row or everything.
_CLOSE, _NOTHING = 1e-3, 1e-5


class UnsupportedModel(ValueError):
    """Raised, with the reason, where not even one backward pass per example would be correct."""


def find_gradient_mode(
    model: AdaptableModel, index: Sequence[str], copying: Mapping[Way, Copying], ids: Sequence[int]
) -> Way:
    """Hooks on the model itself, else on its changed forms from `copying`, else one example at a time.

    index: names of the trained parameters in the backbone. copying: functions that change a model and return the
    parameters to train instead, in the same order, with the head's. A way is accepted only where it agrees with one
    example at a time: on a float32 copy with slightly moved parameters (many start where gradients vanish), on two
    batches of placeholder rows with padding, which begin with `ids`; and then in the model's own precision. Raises
    Unfit where examples influence each other, or a parameter does not influence the outputs.
    """
    if not index:
        raise UnsupportedModel("nothing to train was put into the encoder")
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        raise UnsupportedModel("a BatchNorm couples examples")
    batches = [_made_up(model, count, length, ids) for count, length in ((3, 9), (2, 7))]
    exact = copy.deepcopy(model).float()
    _move(_all(exact, index))
    wanted = [_one_at_a_time(exact, batch, _all(exact, index), index) for batch in batches]
    _check(exact, batches, wanted, index)
    _one_at_a_time(model, batches[0], _all(model, index), index)
    ways: dict[Way, Copying] = {"hooks": _all, **copying}
    for way, change in ways.items():
        try:
            for batch, right in zip(batches, wanted, strict=True):
                _agree(_by_hooks(copy.deepcopy(exact), batch, index, change), right)
            _by_hooks(copy.deepcopy(model), batches[0], index, change)
        except Exception:  # Opacus and vmap raise arbitrary errors on unknown modules
            continue
        return way
    return "single"


def _all(model: AdaptableModel, index: Sequence[str]) -> list[nn.Parameter]:
    parameters = dict(model.backbone.named_parameters())
    return [parameters[name] for name in index] + list(model.head_parameters().values())


def _made_up(model: AdaptableModel, count: int, length: int, ids: Sequence[int]) -> Batch:
    """Padded rows of random tokens, each shorter than the one before."""
    config: Any = model.backbone.config
    generator, device = torch.Generator().manual_seed(count), model.device
    padding = int(config.pad_token_id or 0)
    tokens = torch.randint(int(config.vocab_size) // 2, int(config.vocab_size), (count, length), generator=generator)
    tokens[tokens == padding] -= 1
    tokens[:, 1 : 1 + len(ids[:2])] = torch.tensor(list(ids[:2]), dtype=torch.long)
    lengths = length - torch.arange(count)
    allowed = torch.arange(length) < lengths[:, None]
    tokens = torch.where(allowed, tokens, padding)
    zero = torch.zeros(count, dtype=torch.long)
    labels = zero
    if model.representation == "none":  # the next token of each
        labels = torch.where(allowed.roll(-1, 1) & (torch.arange(length) < length - 1), tokens.roll(-1, 1), IGNORED)
    return Batch(*(t.to(device) for t in (tokens, allowed, torch.zeros_like(tokens), zero + 1, labels)))


@torch.no_grad()
def _move(parameters: Sequence[nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters:
        parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter), alpha=0.05)


def _losses(outputs: Tensor, batch: Batch) -> Tensor:
    """(B, outputs) or (B, T, outputs) -> (B,)"""
    outputs = _summed(outputs.float(), batch)
    return (outputs * torch.linspace(1, 2, outputs.shape[1], device=outputs.device)).sum(1)


def _summed(outputs: Tensor, batch: Batch) -> Tensor:
    """(B, outputs) unchanged; of (B, T, outputs), the sum over all tokens but padding, each with its own weight."""
    if outputs.dim() == 2:
        return outputs
    weight = (1 + torch.arange(outputs.shape[1], device=outputs.device) / 10).expand(outputs.shape[:2])
    there = weight if batch.allowed is None else weight * batch.allowed
    return (outputs * there.unsqueeze(-1)).sum(1)


def _alone(batch: Batch, row: int) -> Batch:
    assert batch.allowed is not None
    assert batch.types is not None
    one, long = slice(row, row + 1), int(batch.allowed[row].sum())
    labels = batch.labels[one] if batch.labels.dim() == 1 else batch.labels[one, :long]
    return Batch(batch.ids[one, :long], None, batch.types[one, :long], batch.read[one], labels)


def _one_at_a_time(
    model: AdaptableModel, batch: Batch, parameters: Sequence[nn.Parameter], index: Sequence[str]
) -> list[Tensor]:
    """Reference gradients [(B, ...), ...] in the order of `parameters`; `index` names the first ones."""
    found = []
    for row in range(len(batch)):
        one = _alone(batch, row)
        loss = _losses(model(one), one).sum()
        gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True)
        for name, gradient in zip(index, gradients, strict=False):
            if gradient is None:
                raise UnsupportedModel(f"{name} has no part in the outputs, so it would not be trained")
        found.append([g for g in gradients if g is not None])
    return [torch.stack(rows) for rows in zip(*found, strict=True)]


@torch.no_grad()
def _check(
    model: AdaptableModel, batches: Sequence[Batch], found: Sequence[list[Tensor]], index: Sequence[str]
) -> None:
    for number, name in enumerate(index):
        parts = [gradients[number] for gradients in found]
        if not all(bool(torch.isfinite(p).all()) for p in parts):
            raise UnsupportedModel(f"{name} has a gradient that is not finite")
        if not any(bool(p.any()) for p in parts):
            raise UnsupportedModel(f"{name} gets no gradient, so it would not be trained")
    for batch in batches:
        together, rows = _summed(model(batch), batch), [_alone(batch, row) for row in range(len(batch))]
        if not torch.equal(together, _summed(model(batch), batch)):
            raise UnsupportedModel("the same rows give other outputs each time")
        alone = torch.cat([_summed(model(row), row) for row in rows])
        if not torch.allclose(together, alone, rtol=_CLOSE, atol=_CLOSE * float(alone.abs().max())):
            raise UnsupportedModel("an example's outputs depend on the others of its batch")


def _by_hooks(model: AdaptableModel, batch: Batch, index: Sequence[str], change: Copying) -> list[Tensor]:
    """Gradients [(B, ...), ...]. Raises where a parameter has no gradient, or not one per row."""
    parameters: list[Any] = change(model, index)  # Opacus adds grad_sample
    model.per_example = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = GradSampleModule(model, batch_first=True, loss_reduction="sum", strict=True)
        _losses(wrapped(batch), batch).sum().backward()
    found = [getattr(parameter, "grad_sample", None) for parameter in parameters]
    if not all(isinstance(g, Tensor) and g.shape[0] == len(batch) for g in found):
        raise RuntimeError("no gradient per example")
    return [g.float() for g in found if g is not None]


def _agree(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    whole = float(torch.stack([w.norm() for w in wanted]).norm())
    for a, b in zip(found, wanted, strict=True):
        if a.shape != b.shape or not float((a - b).norm()) <= _CLOSE * float(b.norm()) + _NOTHING * whole:
            raise RuntimeError("the gradients differ")
