"""The privacy card: what a run promises, by which means, and what the promise does not cover."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dpft.privacy.plan import Plan
from dpft.spec import Spec

NOT_PRIVATE = "NOT PRIVATE"
_PACKAGES = (
    "dpft", "torch", "transformers", "opacus", "prv-accountant", "dp-accounting", "cryptography", "numpy",
)  # fmt: skip
COVERS = [
    "the trained tensors (adapter.safetensors, checkpoints) and everything computed from them alone",
    "every intermediate model, should someone have seen all of them",
]
DOES_NOT_COVER = [
    "the validation figures: computed on the validation rows without noise",
    "the choice of hyper-parameters, where they were chosen by looking at this training data",
    "the number of training examples, label names, tokenizer and pretrained weights: taken as public",
    "timing, memory use and floating-point rounding, as side channels",
    "further runs on the same data: their privacy losses add up",
]


def card(spec: Spec, plan: Plan, examples: int, charged: int, head: str, precision: str) -> dict[str, Any]:
    """The content of privacy.json. `charged`: steps in the ledger; `head`: its newest hash."""
    common = {"versions": versions(), "python": platform.python_version(), "precision": precision}
    if plan.budget is None:
        statement = f"{NOT_PRIVATE}: trained without clipping and noise, for comparison only."
        return {"private": False, "statement": statement, "examples": examples, **common}
    return {
        "private": True,
        "statement": f"({plan.epsilon_upper:.4g}, {plan.budget.delta:g})-differential privacy for adding or "
        f"removing one {spec.unit}",
        "epsilon": plan.epsilon_upper,
        "delta": plan.budget.delta,
        "budget": {"epsilon": plan.budget.epsilon, "delta": plan.budget.delta},
        "adjacency": f"add or remove one {spec.unit}",
        "unit": spec.unit,
        "mechanism": "DP-SGD: per-example clipping, Gaussian noise (Abadi et al. 2016)",
        "sampler": "Poisson: each example enters each batch by its own coin",
        "rate": plan.rate,
        "noise": plan.noise,
        "clip": plan.clip,
        "expected_batch": plan.expected_batch,
        "steps_planned": plan.steps,
        "steps_charged": charged,
        "accountant": plan.accountant,
        "examples": examples,
        "randomness": "AES-256-CTR keyed by the operating system; float64 normals",
        "covers": COVERS,
        "does_not_cover": DOES_NOT_COVER,
        "ledger_head": head,
        **common,
    }


def versions() -> dict[str, str]:
    """Installed versions of the packages that the promise rests on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
