"""Canaries for models without a trained head: rows whose gradients the auditor sets through the final hidden states.

All canaries are one short text, so that their gradients with respect to the final hidden states, (T, D), are pulled
back to the trained tensors by one matrix J. The loss of canary i is <hidden states, V_i>, times a huge number. V_i is
chosen so that the gradients J^T V_i are orthonormal: combinations of random V by the inverse root of their Gram matrix.
Clipped, they are C times known orthogonal vectors, whatever tensors the method trains and however it computes clipped
sums. The hidden states are read by a PyTorch forward hook; from the loss on, all code is the shipped code. A scaled
space ("scale, then privatise") has its own V_i at each step, from the scales that the step will use.

The model's own loss has its turn in the checks of sensitivity. Carriers (Yu et al. 2021) stay those of the first step,
so that J does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpft.audit.mechanism.canary_gradients import HUGE, CanaryModel, RowSettings
from dpft.data.batch import Batch
from dpft.data.encoded import Encoded
from dpft.inference.trained_model import Trained
from dpft.models.adapted import AdaptedModel
from dpft.privacy.mechanism.step import Scaling
from dpft.tasks import sample
from dpft.tokens.encode import encode
from dpft.tokens.microbatch import collate

MAX_CANARIES = 128
_SEED = 20_221
_TOKENS = 8  # of a canary
_NUMBERS = 2**27  # of all gradients together: half a GiB
# Gradients shorter than this share of the longest are left out: their rounding errors would be multiplied.
_SHORTEST = {"fp32": 1e-3, "bf16": 0.1}


@dataclass(frozen=True)
class HiddenCanaries:
    """m canaries. probes: (m, T, D), the V_i. directions: (m, P), their gradients in all tensors, end to end.

    sizes: the number of elements of each tensor, in order.
    """

    data: Encoded
    row_settings: RowSettings
    probes: Tensor
    directions: Tensor
    sizes: Mapping[str, int]
    _latest: list[tuple[Tensor, HiddenCanaries]] = field(default_factory=list, compare=False)

    def __len__(self) -> int:
        return len(self.probes)

    def model(self, adapted: AdaptedModel, clip: float) -> CanaryModel:
        return HiddenCanaryModel(adapted, self.row_settings, clip, self)

    def rescaled(self, scales: Mapping[str, Tensor]) -> HiddenCanaries:
        wanted = _flat(scales)
        if not self._latest or not torch.equal(self._latest[0][0], wanted):
            probes, directions = orthonormal(self.probes, self.directions * wanted)
            self._latest[:] = [(wanted, replace(self, probes=probes, directions=directions, _latest=[]))]
        return self._latest[0][1]

    def scores(self, sums: Mapping[str, Tensor]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (self.directions @ _flat(sums)).double().numpy()
        return found

    def without(self, sums: Mapping[str, Tensor], drawn: NDArray[np.int64]) -> dict[str, Tensor]:
        total = self.directions[torch.from_numpy(drawn)].sum(0).double().split(list(self.sizes.values()))
        return {name: sums[name] - part.view_as(sums[name]) for name, part in zip(self.sizes, total, strict=True)}


class HiddenCanaryModel(CanaryModel):
    """An adapted model where the rows in `canaries` have the gradients that the auditor set.

    Rows carry their number as `read`, which no model that writes looks at; windows carry that of their text.
    """

    def __init__(
        self, adapted: AdaptedModel, row_settings: RowSettings, clip: float, canaries: HiddenCanaries | None = None
    ) -> None:
        self.adapted, self.scale, device = adapted, HUGE * max(1.0, clip), adapted.model.device
        self.row_settings = RowSettings(*(tensor.to(device) for tensor in row_settings.tensors))
        self.released: list[Tensor] = []
        self._hooks = (adapted.model.backbone.register_forward_hook(self._keep),)
        self._canaries, self._hidden = canaries, torch.empty(0)
        self._optimizer: torch.optim.Optimizer | None = None
        self._probes = torch.empty(0) if canaries is None else canaries.probes.to(device)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        own = self.adapted.losses(outputs, batch) * self.row_settings.factors[batch.read]
        if self._canaries is None:
            return own
        columns = self.row_settings.columns[batch.read]
        hidden, probes = self._hidden.to(self._probes.dtype), self._probes[columns.clamp(min=0)]
        return torch.where(columns >= 0, (hidden * probes).flatten(1).sum(1) * self.scale, own)

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def begin(self, step: int) -> None:
        self.adapted.begin(step if self._canaries is None else 0)
        if self._canaries is not None and isinstance(self._optimizer, Scaling):
            scales = [scale.double().cpu() for scale in self._optimizer.scales(self.private)]
            own = self._canaries.rescaled(dict(zip(self.adapted.named, scales, strict=True)))
            self._probes = own.probes.to(self._probes)

    def _keep(self, backbone: Any, inputs: Any, output: Any) -> None:
        self._hidden = output.last_hidden_state


def make_canaries(trained: Trained, clip: float) -> HiddenCanaries:
    """As many canaries as the trained tensors, three quarters of the hidden states and the memory have room for."""
    adapted = trained.adapted
    sizes = {name: parameter.numel() for name, parameter in adapted.named.items()}
    data = _rows(trained, MAX_CANARIES)
    hidden = _hidden(adapted, data)
    numbers = sum(sizes.values())
    most = min(numbers, hidden.numel())
    count = max(1, min(MAX_CANARIES, most - max(1, most // 4), _NUMBERS // numbers))
    generator = torch.Generator().manual_seed(_SEED)
    drawn = torch.randn(min(most, count + count // 2), *hidden.shape[1:], generator=generator)
    probes = longest(drawn, _gradients(adapted, hidden, drawn), count, _SHORTEST[trained.hardware.precision])
    # The gradients of the combinations themselves have smaller rounding errors than combined gradients.
    probes, directions = orthonormal(probes, _gradients(adapted, hidden, probes))
    data = _rows(trained, len(probes))
    settings = RowSettings.of(torch.zeros(len(probes)), columns=torch.arange(len(probes)))
    return HiddenCanaries(data, settings, probes, directions, sizes)


def longest(probes: Tensor, gradients: Tensor, count: int, share: float) -> Tensor:
    """At most `count` combinations of probes with orthonormal gradients, those with the longest: (n, T, D).

    probes: (R, T, D). gradients: (R, P). share: of the longest gradient; shorter ones are left out.
    """
    squares, vectors = torch.linalg.eigh(_gram(gradients))
    kept = int((squares[-count:] > share**2 * squares[-1]).sum())
    combined: Tensor = (vectors[:, -kept:] / squares[-kept:].sqrt()).T @ probes.double().flatten(1)
    return combined.float().view(kept, *probes.shape[1:])


def orthonormal(probes: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest probes with orthonormal gradients, and these: both times the inverse root of the Gram matrix."""
    squares, vectors = torch.linalg.eigh(_gram(gradients))
    root = (vectors / squares.clamp(min=1e-30).sqrt()) @ vectors.T
    return (root @ probes.double().flatten(1)).float().view_as(probes), root.float() @ gradients.float()


def _gram(gradients: Tensor) -> Tensor:
    found = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    for part in gradients.split(2**16, dim=1):
        found += part.double() @ part.double().T
    return found


def _rows(trained: Trained, count: int) -> Encoded:
    """`count` times the same text of _TOKENS tokens, numbered."""
    (text,), _ = sample.generate(1, _SEED)
    rows = trained.objective.placeholder_rows([text] * count, None, 0)
    assert rows.documents is not None
    first = replace(rows, documents=replace(rows.documents, windows=1))
    return numbered(encode(first, trained.tokenizer, "none", min(_TOKENS, trained.run.spec.max_length)))


def numbered(data: Encoded) -> Encoded:
    """`data` where each window carries the number of its text."""
    assert data.owners is not None
    return replace(data, read=data.owners.astype(np.int32))


def _hidden(adapted: AdaptedModel, data: Encoded) -> Tensor:
    """The final hidden states of the first row, with their graph: (1, T, D)."""
    adapted.begin(0)
    model = adapted.model
    per_example, model.per_example = model.per_example, True
    with HiddenCanaryModel(adapted, RowSettings.of(torch.zeros(len(data))), 1.0) as reader:
        model(collate(data, np.array([0]), model.device))
        found = reader._hidden
    model.per_example = per_example
    return found


def _gradients(adapted: AdaptedModel, hidden: Tensor, probes: Tensor) -> Tensor:
    """The gradient of <hidden, V> for each V, in all tensors end to end: (n, T, D) -> (n, P)."""
    found = torch.empty(len(probes), sum(p.numel() for p in adapted.private))
    for row, probe in zip(found, probes.to(hidden), strict=True):
        parts = torch.autograd.grad(hidden, list(adapted.private), probe.unsqueeze(0), retain_graph=True)
        torch.cat([part.flatten().float().cpu() for part in parts], out=row)
    return found


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten().float() for tensor in tensors.values()])


def side_factors(turned: Sequence[bool]) -> Tensor:
    """A factor of -1 for the losses of turned rows, whose gradients oppose the others."""
    return 1 - 2 * torch.tensor(turned, dtype=torch.float32)
