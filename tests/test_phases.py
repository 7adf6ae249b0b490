"""The head alone first, averages and private Adams in whole runs: what is released, kept, resumed and said."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dpft import Budget, Machine, Spec, UserError, averages, load, optimizers, phases, resume, train
from dpft.adapt import adapt, settle
from dpft.checkpoint import Checkpoints
from dpft.methods._method import Adapted
from dpft.privacy.ledger import Ledger
from dpft.privacy.plan import Plan
from dpft.run import Run
from tests.stopping import StopAt

FP32 = Machine(device="cpu", precision="fp32")
Folder = Callable[..., Path]


@pytest.fixture
def spec(tiny_bert: Path, glue_folder: Folder) -> Spec:
    return Spec(
        task="glue/sst2", data=str(glue_folder("sst2")), model=str(tiny_bert), options={"dim": 12},
        budget=Budget(8.0, 1e-4), batch_size=40, epochs=1, learning_rate=3e-2, max_length=16,
    )  # fmt: skip


def broken_off(spec: Spec, folder: Path, step: int) -> Path:
    stop = StopAt(step)
    with pytest.raises(KeyboardInterrupt):
        train(spec, runs=folder, machine=FP32, progress=stop)
    return stop.path


def made(spec: Spec) -> Adapted:
    return adapt(spec, 2, False, settle(spec, FP32)).adapted


def test_a_probe_comes_first_and_every_step_is_charged(spec: Spec, tmp_path: Path) -> None:
    # 10 steps, 4 of them on the head: z stays at its start, has no state in Adam, and moves afterwards.
    spec = dataclasses.replace(spec, probe_first=0.4, average="tail:0.5")
    path = broken_off(spec, tmp_path / "runs", 4)
    kept = load_file(path / "checkpoints" / "last.safetensors")
    assert not kept["model.z"].any()
    assert "optimizer.z/exp_avg" not in kept
    assert "optimizer.head.weight/exp_avg" in kept
    result = resume(path, machine=FP32)
    run, card = Run.open(path), json.loads((path / "privacy.json").read_text())
    assert load(path, machine=FP32).adapted.updated["z"].any()
    assert card["steps_charged"] == run.plan.steps == 10
    assert "the first 4 steps release the head alone" in card["mechanism"]
    with Ledger(run.ledger) as book:
        assert book.charged(run.id) == 10
    assert result.epsilon == run.plan.epsilon_upper


@pytest.mark.parametrize(("method", "options"), [("slash", {"dim": 12}), ("rgp", {}), ("full", {}), ("bitfit", {})])
def test_in_the_first_phase_the_head_alone_is_private_and_then_everything(
    spec: Spec, method: str, options: Any
) -> None:
    adapted = made(dataclasses.replace(spec, method=method, options=options))
    seen: list[tuple[int, set[str], set[str]]] = []

    class Step:
        def __init__(self, part: Adapted) -> None:
            self.part, self.closed = part, False

        def __call__(self, step: int, microbatches: object) -> None:
            trainable = {n for n, p in adapted.named.items() if p.requires_grad}
            seen.append((step, set(self.part.named), trainable))

        def close(self) -> None:
            self.closed = True

    made_steps: list[Step] = []

    def make(part: Adapted) -> Step:
        assert all(step.closed for step in made_steps)
        made_steps.append(Step(part))
        return made_steps[-1]

    phased = phases.Phased(adapted, 2, make)
    for step in range(4):
        phased(step, [])
    phased.close()
    head, everything = {"head.weight", "head.bias"}, set(adapted.named)
    assert seen == [(0, head, head), (1, head, head), (2, everything, everything), (3, everything, everything)]
    assert len(made_steps) == 2
    assert made_steps[1].closed
    assert all(p.requires_grad for p in adapted.private)


def test_a_run_resumed_behind_the_switch_trains_everything(spec: Spec, tmp_path: Path) -> None:
    # Catches a phase that counts the steps of this process instead of the run's.
    path = broken_off(dataclasses.replace(spec, probe_first=0.2), tmp_path / "runs", 3)
    before = load_file(path / "checkpoints" / "last.safetensors")["model.z"]
    path = broken_off_again(path, 4)
    assert not torch.equal(load_file(path / "checkpoints" / "last.safetensors")["model.z"], before)


def broken_off_again(path: Path, step: int) -> Path:
    with pytest.raises(KeyboardInterrupt):
        resume(path, machine=FP32, progress=StopAt(step))
    return path


def test_a_run_hands_out_its_average(spec: Spec, tmp_path: Path) -> None:
    # tail:0.2 of 10 steps is the mean of the last two: each is in a checkpoint.
    spec = dataclasses.replace(spec, average="tail:0.2")
    path = broken_off(spec, tmp_path / "runs", 9)
    first = load_file(path / "checkpoints" / "last.safetensors")
    resume(path, machine=FP32)
    last = load_file(path / "checkpoints" / "last.safetensors")
    for name, tensor in load_file(path / "adapter.safetensors").items():
        if f"average.{name}" in last:
            wanted = (first[f"model.{name}"] + last[f"model.{name}"]) / 2
            torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-7)
    assert {name for name in last if name.startswith("average.")} == {
        "average.z", "average.head.weight", "average.head.bias"
    }  # fmt: skip


def test_a_scaled_normalised_run_says_so_and_spends_what_it_planned(spec: Spec, tmp_path: Path) -> None:
    spec = dataclasses.replace(spec, optimizer="adam_scaled", clipping="normalise")
    result = train(spec, runs=tmp_path / "runs", machine=FP32)
    card, plan = json.loads((result.path / "privacy.json").read_text()), Run.open(result.path).plan
    assert plan.clipping == "normalise"
    assert "normalised to at most the clip" in card["mechanism"]
    assert "scaled by earlier releases" in card["mechanism"]
    assert card["steps_charged"] == plan.steps
    assert plan == dataclasses.replace(Run.open(train(
        dataclasses.replace(spec, optimizer="adam", clipping="cut"), runs=tmp_path / "b", machine=FP32
    ).path).plan, clipping="normalise")  # fmt: skip


def test_a_plan_from_before_the_choice_cuts() -> None:
    plan = Plan(0.1, 5, 1.5, 0.7, 10, Budget(8.0, 1e-6), 7.9, "test", "normalise")
    assert Plan.from_json(plan.to_json()) == plan
    older = {k: v for k, v in plan.to_json().items() if k != "clipping"}
    assert Plan.from_json(older).clipping == "cut"
    with pytest.raises(UserError, match="clipping must be cut or normalise"):
        Plan.from_json({**plan.to_json(), "clipping": "none"})


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"method": "linear", "options": {}, "probe_first": 0.2}, "trains more than the head"),
        ({"method": "linear", "options": {}, "head_learning_rate": 0.2}, "trains more than the head"),
        ({"method": "rgp", "options": {}, "optimizer": "adam_bc"}, "needs to know the noise of each number"),
        ({"method": "rgp", "options": {}, "optimizer": "adam_scaled"}, "needs to know the noise of each number"),
        ({"method": "full", "options": {}, "optimizer": "adam_scaled"}, "needs a gradient for each example"),
    ],
)
def test_an_option_that_does_not_fit_the_method_is_refused_before_anything_is_spent(
    spec: Spec, tmp_path: Path, changes: dict[str, Any], rule: str
) -> None:
    with pytest.raises(UserError, match=rule):
        train(dataclasses.replace(spec, **changes), runs=tmp_path / "runs", machine=FP32)
    assert not (tmp_path / "runs").exists()


@dataclasses.dataclass
class Kept:
    """A run's checkpoint in memory, and the parts of an adapted model that one needs."""

    updated: dict[str, nn.Parameter]
    tensors: tuple[dict[str, Tensor], dict[str, str]] | None = None
    digest: str = "backbone"

    @property
    def model(self) -> Kept:
        return self

    def fingerprint(self, backbone: str) -> str:
        return backbone

    def save_tensors(self, name: str, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
        self.tensors = {k: t.clone() for k, t in tensors.items()}, about

    def read_tensors(self, name: str) -> Any:
        return self.tensors

    def state(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.updated.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, p in self.updated.items():
            p.data = state[name].clone()


@pytest.mark.parametrize("average", ["none", "ema:0.9", "tail:0.6"])
@pytest.mark.parametrize("optimizer", ["adam", "adam_bc", "adam_scaled", "sgd"])
def test_a_restored_run_goes_on_as_one_that_was_not_broken_off(optimizer: Any, average: str) -> None:
    # To the last bit: weights, scales and averages after ten steps, with and without a checkpoint after five.
    plan = Plan(0.1, 10, 1.2, 0.5, 30, Budget(8.0, 1e-5), 7.9, "test")
    # The head, first by name and last in the optimizer, has a rate of its own: catches moments given back by place.
    given = np.random.default_rng(1).normal(size=(10, 2, 4)).astype(np.float32)
    spec = Spec(optimizer=optimizer, learning_rate=0.1, head_learning_rate=0.3)

    def parts(store: Any) -> Any:
        parameters = {"head.weight": nn.Parameter(torch.zeros(4)), "w": nn.Parameter(torch.zeros(4))}
        kept = Kept(parameters, store)
        made = optimizers.make(spec, plan, parameters)
        mean = averages.make(average, parameters, plan.steps)
        return parameters, made, mean, Checkpoints(kept, kept, made, mean), kept  # type: ignore[arg-type]

    def walk(some: Any, start: int, stop: int) -> None:
        weights, made, mean, checkpoints, _ = some
        for step in range(start, stop):
            optimizers.set_rate(made, spec, step, plan.steps)
            for parameter, gradient in zip(weights.values(), given[step], strict=True):
                parameter.grad = torch.tensor(gradient)
            made.step()
            mean.add(step)
            checkpoints.save_when_due(step + 1, 0.0, plan.steps, "")

    whole, first = parts(None), parts(None)
    walk(whole, 0, 10)
    walk(first, 0, 5)
    second = parts(first[4].tensors)
    assert second[3].restore()[0] == 5
    walk(second, 5, 10)
    for a, b in ((whole[4].tensors, second[4].tensors),):
        assert a[1] == b[1]
        assert a[0].keys() == b[0].keys()
        assert all(torch.equal(a[0][name], b[0][name]) for name in a[0])
    whole[2].apply()
    second[2].apply()
    assert all(torch.equal(whole[0][name], second[0][name]) for name in whole[0])
