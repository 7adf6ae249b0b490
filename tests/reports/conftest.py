"""Run folders as `dpft train` leaves them, made in a moment; a test holds their shape to a trained run's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpft.runs.privacy_card import COVERS, DOES_NOT_COVER
from dpft.runs.statements import NOT_PRIVATE, rounded_up
from dpft.spec import Budget, Spec

Maker = Callable[..., Path]


def make_run(
    root: Path, name: str, *, epsilon: float | None = 3.0, delta: float = 1e-5, value: float = 0.8, seconds: int = 40,
    memory: int | None = 640, trainable: int = 1794, units: int = 3000, population: str | None = "a" * 16,
    adjacency: str = "adding or removing one example", metric: str = "accuracy", **spec: Any,
) -> Path:  # fmt: skip
    """A finished run below `root`. Further keywords are the spec's."""
    budget = None if epsilon is None else Budget(epsilon, delta)
    wanted = Spec(
        **{
            "task": "glue/sst2",
            "learning_rate": 1e-3,
            "batch_size": 300,
            "epochs": 5.0,
            "clip": 2.0,
            "optimizer": "adam",
            "budget": budget,
            **spec,
        }
    )
    folder = root / name
    folder.mkdir(parents=True)
    upper = None if epsilon is None else epsilon * 0.999
    label = NOT_PRIVATE if upper is None else f"({rounded_up(upper)}, {delta!r})"
    steps = 80
    about = {"format": 1, "id": f"id-{name}", "ledger": "/l.sqlite", "ledger_head": "f" * 64 if budget else ""}
    result = {
        "path": str(folder), "metric": metric, "value": value, "epsilon": upper, "delta": delta if budget else None,
        "steps": steps, "trainable": trainable, "seconds": seconds, "precision": "fp32", "device": "cpu",
        "memory_mib": memory, "further": {}, "classes": {}, "private": budget is not None, "privacy": label,
    }  # fmt: skip
    card: dict[str, Any] = {
        "private": False, "statement": f"{NOT_PRIVATE}: trained without clipping and noise, for comparison only.",
        "units": units, "versions": {"dpft": "0.1.0"}, "python": "3.11.7", "precision": "fp32",
        "adapter_sha256": "0" * 64,
    }  # fmt: skip
    if budget is not None:
        card |= {
            "private": True, "statement": f"{label}-differential privacy for {adjacency}", "epsilon": upper,
            "delta": delta, "budget": {"epsilon": epsilon, "delta": delta}, "adjacency": adjacency,
            "unit": wanted.unit, "max_per_unit": wanted.max_per_unit, "mechanism": "DP-SGD", "sampler": "Poisson",
            "rate": 300 / units, "noise": 2.5 / (epsilon or 1), "clip": 2.0, "expected_batch": 300,
            "steps_planned": steps, "steps_charged": steps, "accountant": "prv-accountant 0.2.0",
            "randomness": "AES-256-CTR", "covers": COVERS, "does_not_cover": DOES_NOT_COVER,
            "ledger_head": "f" * 64, "population": population and summary(population),
        }  # fmt: skip
    for file, content in (("run", about), ("spec", wanted.to_json()), ("plan", {}), ("result", result),
                          ("privacy", card)):  # fmt: skip
        put(folder, file, content)
    (folder / "private").mkdir()
    (folder / "private" / "audit.json").write_text('{"secret": "must never be read"}')
    return folder


def summary(id: str, runs: int = 1, composition: float = 3.2, filter: float = 4.4) -> dict[str, Any]:
    """A population as a card has it."""
    return {
        "id": id, "runs": runs, "delta": 1e-5,
        "composition": {"epsilon": composition, "assumes": "all planned", "accountant": "PLD"},
        "filter": {"epsilon": filter, "assumes": "none"},
    }  # fmt: skip


def put(folder: Path, name: str, content: object) -> None:
    (folder / f"{name}.json").write_text(json.dumps(content))


def change(folder: Path, name: str, **values: object) -> None:
    """Other values in NAME.json."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def audit(folder: Path, verdict: str = "PASS", bound: float | str = 1.1, claimed: float = 3.0) -> None:
    """An audit.json with a fact, and a bound on a step and on the model."""
    base = {"low": 0.0, "high": claimed, "kind": "bound", "about": "", "private": False, "passed": True}
    checks = [
        {**base, "level": "bookkeeping", "name": "reserved as planned", "value": 1.0, "kind": "fact"},
        {**base, "level": "path", "name": "ε, one release: Clopper-Pearson", "value": 0.7, "high": 1.9},
        {**base, "level": "model", "name": "ε, one run", "value": bound, "passed": verdict == "PASS"},
    ]
    put(folder, "audit", {"run": folder.name, "verdict": verdict, "confidence": 0.99, "claimed_epsilon": claimed,
                          "delta": 1e-5, "seconds": {}, "checks": checks})  # fmt: skip


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """A factory of run folders below runs/: make("a", epsilon=3.0, method="lora", seed=1, value=0.8)."""
    return lambda name, **facts: make_run(tmp_path / "runs", name, **facts)
