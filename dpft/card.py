"""The privacy card: what a run promises, by which means, and what the promise does not cover."""

from __future__ import annotations

import platform
from decimal import ROUND_CEILING, Decimal, localcontext
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
    "time: how long steps take follows the rows drawn (seconds in result.json, times in the ledger)",
    "rounding: in bf16 an example's gradient depends in its last bits on the rows computed beside it; removing one of "
    "256 examples moved the clipped sum by 1.0002 clips instead of 1 (in fp32 by 1 + 4e-6)",
    "a ledger put back from an older copy after its run's checkpoints were removed",
    "further runs on the same data: their privacy losses add up",
]


CANARIES = "canaries were planted for an audit: this model is not for use"


def card(spec: Spec, plan: Plan, examples: int, charged: int, head: str, precision: str) -> dict[str, Any]:
    """The content of privacy.json. `charged`: steps in the ledger; `head`: its newest hash."""
    common: dict[str, Any] = {"versions": versions(), "python": platform.python_version(), "precision": precision}
    if spec.canaries:
        common["canaries"] = f"{spec.canaries} {CANARIES}"
    if plan.budget is None:
        statement = f"{NOT_PRIVATE}: trained without clipping and noise, for comparison only."
        return {"private": False, "statement": statement, "examples": examples, **common}
    return {
        "private": True,
        "statement": f"{label(plan)}-differential privacy for adding or removing one {spec.unit}",
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


def label(plan: Plan) -> str:
    """(epsilon, delta) as it is printed: epsilon rounded up, never to the nearest; or NOT PRIVATE."""
    if plan.budget is None or plan.epsilon_upper is None:
        return NOT_PRIVATE
    return f"({rounded_up(plan.epsilon_upper)}, {plan.budget.delta!r})"


def rounded_up(epsilon: float) -> str:
    """`epsilon` to four significant digits, rounded up."""
    with localcontext(prec=4, rounding=ROUND_CEILING):
        return f"{+Decimal(epsilon):f}"


def versions() -> dict[str, str]:
    """Installed versions of the packages that the promise rests on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
