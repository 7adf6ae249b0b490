"""Steps on one process or on several, sound and faulty: `python -m tests.ranked RANK SIZE STORE MODEL OUT`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from dpft.data.encoded import Encoded
from dpft.data.examples import Examples
from dpft.data.units import Units
from dpft.inference import outputs as evaluate
from dpft.inference.build import build_model
from dpft.machine import hardware
from dpft.machine.team import Ranks, Team
from dpft.models.adapted import AdaptedModel
from dpft.privacy.mechanism.clipping import clipped_sum
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.mechanism.step import NonPrivateStep, PrivateStep, SharedStep
from dpft.privacy.randomness import Secret
from dpft.spec import Budget, Machine, Spec
from dpft.tasks import sample
from dpft.tokens.encode import encode
from dpft.tokens.microbatch import microbatches

CLIP, NOISE, EXPECTED, NOISY_STEPS = 0.7, 1.5, 10, 200
COUNTS = (0, 1, 2, 23)  # drawn: nobody; one, so that a rank has none; one each; unequal parts
METHODS = ("slash", "rgp", "full", "slash by unit", "full by unit", "linear")


class Book:
    def charge(self, event: object) -> None:
        """Remember nothing."""


class Silent(Secret):
    def normal(self, count: int) -> NDArray[np.float64]:
        return np.zeros(count)


class NoisyShare(SharedStep[Any]):
    """A fault: a rank adds noise of its own to its share."""

    def _sum(self, microbatches: Any) -> list[Tensor]:
        total = super()._sum(microbatches)
        return [t + torch.from_numpy(Secret().normal(t.numel())).reshape(t.shape) * NOISE * CLIP for t in total]


class Unclipped(SharedStep[Any]):
    """A fault, with the next: shares are added up as they are, and their sum is clipped."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.clipper.clip = 1e30


class ClippedAfter(PrivateStep[Any]):
    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.clipper.clip = 1e30

    def _release(self, total: list[Tensor]) -> list[Tensor]:
        return super()._release(clipped_sum([t.unsqueeze(0) for t in total], CLIP))


class Greedy(Ranks):
    """A fault: this rank takes the others' rows as well."""

    def scatter(self, drawn: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        order = np.frombuffer(self._spread(drawn.tobytes()), np.int64)
        return order[:: self.size] if self.first else order


def plan(noise: float = NOISE) -> Plan:
    return Plan(0.1, 5, noise, CLIP, EXPECTED, Budget(8.0, 1e-6), 7.9, "test")


def bare() -> Plan:
    return Plan(0.1, 5, 0.0, None, EXPECTED, None, None, None)


def example(dtype: torch.dtype) -> SimpleNamespace:
    """A model of two private parameters of unlike size."""
    torch.manual_seed(0)
    model = nn.Linear(6, 3).to(dtype)
    return SimpleNamespace(
        model=model, private=[model.weight, model.bias], gradients="hooks", begin=lambda _: None, rebuild=lambda: None,
        losses=lambda outputs, _: (outputs**2).sum(1) * 0.3,
    )  # fmt: skip


def rows(dtype: torch.dtype, count: int = 23) -> Tensor:
    """Some short and some long gradients, one of them huge."""
    generator = torch.Generator().manual_seed(1)
    scale = torch.cat([torch.linspace(0.01, 2, count - 1, dtype=dtype), torch.tensor([1e6], dtype=dtype)])
    return torch.randn(count, 6, generator=generator, dtype=dtype) * scale[:, None]


def moved(
    team: Team, of: Any, make: Any, batches: list[tuple[Any, ...]], kinds: tuple[Any, Any] = (PrivateStep, SharedStep)
) -> list[Tensor]:
    """How far each parameter moves by SGD at rate 1. make: from this rank's units to its micro-batches."""
    updated = list(of.updated.values()) if isinstance(of, AdaptedModel) else of.private
    before = [p.detach().clone() for p in updated]
    optimizer = torch.optim.SGD(updated, lr=1.0)
    first, other = kinds
    follows = not team.first
    step = other(of, plan(), optimizer, team) if follows else first(of, plan(), optimizer, Book(), Silent(), "r", team)
    for number, (drawn, tokens) in enumerate(batches):
        step(number, make(team.scatter(drawn, tokens)))
    step.close()
    return [old - p.detach() for old, p in zip(before, updated, strict=True)]


def sums(team: Team, dtype: torch.dtype, count: int, kinds: Any = (PrivateStep, SharedStep)) -> list[Tensor]:
    data = rows(dtype)
    drawn = np.arange(23)[::-1][:count].copy()  # the huge one is among any
    return moved(team, example(dtype), lambda own: data[own].split(4), [(drawn, np.ones(count, np.int64))], kinds)


def plain(team: Team) -> list[Tensor]:
    """A step that is not private, on unequal parts."""
    of, data = example(torch.float64), rows(torch.float64)[:22]
    before = [p.detach().clone() for p in of.private]
    step = NonPrivateStep(of, bare(), torch.optim.SGD(of.private, lr=1.0), team)
    step(0, data[team.scatter(np.arange(21), np.ones(21, np.int64))].split(4))
    return [old - p.detach() for old, p in zip(before, of.private, strict=True)]


def noises(team: Team, follower: Any = SharedStep) -> Tensor:
    """What many empty batches release."""
    of = example(torch.float64)
    optimizer = torch.optim.SGD(of.private, lr=1.0)
    follows = not team.first
    step = (
        follower(of, plan(), optimizer, team)
        if follows
        else PrivateStep(of, plan(), optimizer, Book(), Secret(), "run", team)
    )
    found = []
    for number in range(NOISY_STEPS):
        before = torch.cat([p.detach().flatten() for p in of.private])
        step(number, [])
        found.append(before - torch.cat([p.detach().flatten() for p in of.private]))
    step.close()
    return torch.cat(found)


def trained(team: Team) -> list[Tensor]:
    """The parameters after five steps of Adam with noise, on batches that the first rank draws."""
    of, data, secret = example(torch.float32), rows(torch.float32), Secret()
    optimizer = torch.optim.Adam(of.private, lr=0.1)
    follows = not team.first
    step = (
        SharedStep(of, plan(), optimizer, team)
        if follows
        else PrivateStep(of, plan(), optimizer, Book(), secret, "run", team)
    )
    for number in range(5):
        drawn = np.flatnonzero(secret.bernoulli(0.5, 23))
        step(number, data[team.scatter(drawn, np.ones(len(drawn), np.int64))].split(4))
    step.close()
    return [p.detach() for p in of.private]


def data_of(tokenizer: Any, by_unit: bool) -> Encoded:
    texts, labels = sample.generate(40, seed=11)
    units = np.arange(40) % 13 if by_unit else None
    return encode(Examples(texts, None, np.array(labels), units), tokenizer, "mean", 32)


def method_sums(team: Team, folder: str, name: str, *, other_arithmetic: bool = False) -> list[Tensor]:
    """Two steps of a method, so that RGP's second carriers come from its first release; and frozen features."""
    method, _, by_unit = name.partition(" by ")
    options = {"dim": "12"} if method == "slash" else {}
    spec = Spec(model=folder, method=method, options=options, max_length=32, unit=by_unit or Spec.unit)
    at = hardware.resolve(Machine(device="cpu", precision="fp32"))
    made = build_model(spec, 2, False, at)
    data = data_of(made.tokenizer, bool(by_unit))
    assert data.units is None or isinstance(data.units, Units)
    if made.adapted.frozen:
        data = data.with_features(evaluate.features(made.adapted.model, data, at, team).astype(np.float64))
    adapted = made.adapted
    adapted.model.double().per_example = True
    if other_arithmetic:
        begin = adapted.begin
        adapted = type(adapted)(**vars(adapted))
        object.__setattr__(adapted, "begin", lambda step: (begin(step), _jolt(adapted)))
    drawn = (np.arange(data.unit_count)[::2].copy(), np.arange(data.unit_count)[::3].copy())
    batches = [(units, data.tokens[units]) for units in drawn]
    return moved(team, adapted, lambda own: microbatches(data, own, 128), batches)


@torch.no_grad()
def _jolt(adapted: Any) -> None:
    for site in adapted.sites:
        site.left.weight.mul_(-1)  # as a QR of another machine may choose its signs


def all_of(team: Team, folder: str, greedy: Ranks | None) -> Iterator[tuple[str, list[Tensor]]]:
    """Every scenario by name; with `greedy`, the faulty ones too."""
    for dtype in (torch.float64, torch.float32):
        for count in COUNTS:
            yield f"{dtype} {count}", sums(team, dtype, count)
    yield "plain", plain(team)
    yield "trained", trained(team)
    for name in METHODS:
        yield name, method_sums(team, folder, name)
    if greedy is None:
        return
    yield "noise", [noises(team)]
    yield "noise on each rank", [noises(team, NoisyShare)]
    yield "clip after the sum", sums(team, torch.float64, 23, (ClippedAfter, Unclipped))
    yield "rows dealt twice", sums(greedy, torch.float64, 23)
    jolted = not team.first
    yield "other arithmetic", method_sums(team, folder, "rgp", other_arithmetic=jolted)


def main() -> None:
    rank, size, store, folder, out = sys.argv[1:]
    torch.set_num_threads(1)
    kept = dist.FileStore(store, int(size))
    patience = timedelta(seconds=120)
    dist.init_process_group("gloo", store=kept, rank=int(rank), world_size=int(size), timeout=patience)
    team = Ranks(kept)
    found = {}
    for name, tensors in all_of(team, folder, Greedy(kept)):
        found.update({f"{name}/{i}": t.contiguous() for i, t in enumerate(tensors)})
    dist.destroy_process_group()
    save_file(found, Path(out))


if __name__ == "__main__":
    main()
