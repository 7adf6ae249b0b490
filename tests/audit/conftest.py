"""A run on a tiny random model, without a folder: the path needs its spec, plan and adapted model alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dpft import objectives
from dpft.inference.build import build_model, resolve_hardware
from dpft.inference.trained_model import Trained
from dpft.privacy.mechanism.plan import Plan
from dpft.runs.folder import Run
from dpft.spec import Budget, Machine, Spec

EXAMPLES = 1000
MakeTrained = Callable[..., Trained]


@pytest.fixture(scope="session")
def make_trained(tiny_bert: Path) -> MakeTrained:
    """A factory: make_trained("lora") -> a model of that method at noise 0.9, clip 0.7, rate 72 in 1000."""

    def make(method: str = "slash", labels: int = 2, **options: object) -> Trained:
        budget = Budget(8.0, 1e-4)
        spec = Spec(
            model=str(tiny_bert), method=method, options=options, budget=budget, batch_size=72, learning_rate=0.1,
            clip=0.7, max_length=32, optimizer="adam",
        )  # fmt: skip
        settled = resolve_hardware(spec, Machine(device="cpu", precision="fp32"))
        made = build_model(spec, labels, False, settled)
        plan = Plan(72 / EXAMPLES, 70, 0.9, spec.clip, 72, budget, 7.9, "test")
        run = Run(Path("unsaved"), spec, plan, "test", Path("unsaved"), "")
        return Trained(run, made.adapted, tuple("abc"[:labels]), False, made.tokenizer, settled)

    return make


@pytest.fixture(scope="session")
def make_writer(tiny_decoder: Path) -> MakeTrained:
    """A factory: make_writer("lora", rank=2) -> a model that writes, as if in the middle of training; plan as above."""

    def make(method: str = "lora", optimizer: str = "adam", **options: object) -> Trained:
        budget = Budget(8.0, 1e-4)
        spec = Spec(
            task="text/files", model=str(tiny_decoder), method=method, options=options, budget=budget, batch_size=72,
            learning_rate=0.1, clip=0.7, max_length=24, optimizer=optimizer, representation="none",
        )  # fmt: skip
        settled = resolve_hardware(spec, Machine(device="cpu", precision="fp32"))
        objective = objectives.load("language-model").configured(spec)
        made = build_model(spec, 0, False, settled, objective=objective)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in {id(p): p for p in (*made.adapted.private, *made.adapted.updated.values())}.values():
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        plan = Plan(72 / EXAMPLES, 70, 0.9, spec.clip, 72, budget, 7.9, "test")
        run = Run(Path("unsaved"), spec, plan, "test", Path("unsaved"), "")
        return Trained(run, made.adapted, (), False, made.tokenizer, settled)

    return make


@pytest.fixture(scope="session")
def writer(make_writer: MakeTrained) -> Trained:
    return make_writer(rank=2)


@pytest.fixture(scope="session")
def trained(make_trained: MakeTrained) -> Trained:
    return make_trained(dim=48)
