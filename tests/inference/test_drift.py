"""How far tensors may wander: against the change that such noise really makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dpft import methods
from dpft.inference.build import build_model
from dpft.inference.drift import _reads, tolerances
from dpft.machine.hardware import resolve
from dpft.models.adapted import AdaptedModel
from dpft.spec import HEAD, Machine, Spec

FP32 = resolve(Machine(device="cpu", precision="fp32"))
DRIFT = 0.1
SMALL = {"slash": {"dim": 12}, "jr_warp": {"dim": 12}, "lora": {"rank": 2}, "rgp": {"rank": 1}}


def made(folder: Path, method: str) -> tuple[AdaptedModel, list[torch.Tensor]]:
    spec = Spec(model=str(folder), method=method, options=SMALL.get(method, {}), max_length=32)
    model = build_model(spec, 2, False, FP32)
    return model.adapted, list(model.public)


def change(adapted: AdaptedModel, public: list, sizes: dict[str, float], seed: int) -> float:
    """What noise of these sizes does to the reading, without what it does to all texts alike."""
    start = _reads(adapted, public)
    kept = {name: adapted.updated[name].detach().clone() for name in sizes}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, size in sizes.items():
            adapted.updated[name].add_(size * torch.randn(kept[name].shape, generator=generator))
        moved = _reads(adapted, public) - start
        for name, value in kept.items():
            adapted.updated[name].copy_(value)
    return float((moved - moved.mean(0)).square().sum(1).mean().sqrt())


@pytest.mark.parametrize("method", ["slash", "jr_warp", "bitfit", "full"])
def test_noise_of_the_tolerated_size_moves_the_reading_by_the_drift(tiny_bert: Path, method: str) -> None:
    # The oracle is fresh noise, eight times: catches a change that is not in units of the spread, or of one row.
    adapted, public = made(tiny_bert, method)
    found = tolerances(adapted, public, DRIFT)
    name = next(iter(found))
    seen = [change(adapted, public, {name: found[name]}, seed) for seed in range(8)]
    assert DRIFT / 2.5 < sum(seen) / len(seen) < DRIFT * 2.5


@pytest.mark.parametrize("method", [name for name in methods.names() if name not in ("linear", "peft")])
def test_every_method_has_a_tolerance_for_each_tensor_and_is_left_as_it_was(tiny_bert: Path, method: str) -> None:
    adapted, public = made(tiny_bert, method)
    before = {name: p.detach().clone() for name, p in adapted.updated.items()}
    reads = _reads(adapted, public)
    found = tolerances(adapted, public, DRIFT)
    assert set(found) == {name for name in adapted.updated if not name.startswith(HEAD)}
    assert all(0 < size <= 10 for size in found.values())
    assert all(torch.equal(before[name], p) for name, p in adapted.updated.items())
    torch.testing.assert_close(_reads(adapted, public), reads)
    assert tolerances(adapted, public, DRIFT) == found


def test_a_tensor_that_acts_through_another_is_measured_with_that_one_moved(tiny_bert: Path) -> None:
    # LoRA's A does nothing where B is zero: catches one that is taken for harmless, and let run away.
    adapted, public = made(tiny_bert, "lora")
    found = tolerances(adapted, public, DRIFT)
    down, up = ([size for name, size in found.items() if name.endswith(end)] for end in ("down", "up"))
    assert max(down) < 10
    assert max(up) < 10


def test_deep_models_are_measured_at_some_blocks_and_interpolated_between(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two blocks are measured one by one; with one measured block the other takes its size.
    adapted, public = made(tiny_bert, "bitfit")
    each = tolerances(adapted, public, DRIFT)
    monkeypatch.setattr("dpft.inference.drift._BLOCKS", 1)
    found = tolerances(adapted, public, DRIFT)
    assert set(found) == set(each)
    first = [name for name in each if ".0." in name]
    assert first
    for name in first:
        assert found[name] == pytest.approx(each[name], rel=0.5)
        assert found[name.replace(".0.", ".1.")] == found[name]
