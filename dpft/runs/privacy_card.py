"""The privacy card (privacy.json): what a run promises, by which mechanism, and what the promise does not cover."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dpft.privacy.mechanism.plan import Plan
from dpft.runs.statements import CHOICE, VALIDATION
from dpft.runs.statements import NOT_PRIVATE as NOT_PRIVATE
from dpft.runs.statements import rounded_up as rounded_up
from dpft.spec import Spec

_PACKAGES = (
    "dpft", "torch", "transformers", "opacus", "prv-accountant", "dp-accounting", "cryptography", "numpy",
)  # fmt: skip
COVERS = [
    "the trained tensors (adapter.safetensors, checkpoints) and everything computed from them alone",
    "every intermediate model, should someone have seen all of them",
]
DOES_NOT_COVER = [
    VALIDATION,
    CHOICE,
    "the number of units, label names, tokenizer and pretrained weights: taken as public",
    "time and memory: how long steps take and how much they hold follows the rows drawn (seconds and memory_mib in "
    "result.json, times in the ledger)",
    "rounding: in bf16 an example's gradient depends in its last bits on the rows computed beside it; removing one of "
    "256 examples moved the clipped sum by 1.0002 clips instead of 1 on the built-in encoder, one of 13 by 1.0019 on "
    "the built-in language model (in fp32 by 1 + 4e-6); that of 100,000 made-up gradients, summed in float64, moved by "
    "1 + 4e-6",
    "a ledger put back from an older copy after its run's checkpoints were removed",
    "further runs on the same data: their losses add up, beyond the label above. `population` states what all runs in "
    "this ledger on data known to be of the same people have spent, as of this run's end; later runs, runs in other "
    "ledgers and data too unlike to be known again are not in it",
]


CANARIES = (
    "canaries were planted for an audit: this model is not for use; they are made up and nobody's, and audit.json "
    "tells how many of them were guessed right"
)


@dataclass(frozen=True)
class Charge:
    """The ledger at the end of a run: charged steps, newest hash, and the summary of the population."""

    steps: int
    head: str
    population: dict[str, Any] | None


def card(
    spec: Spec,
    plan: Plan,
    units: int,
    charge: Charge,
    precision: str,
    read_from_training: Sequence[str] = (),
    shared: str | None = None,
) -> dict[str, Any]:
    """The content of privacy.json.

    units: the number of protected units. read_from_training: what was read from the training data without noise (label
    names, say). shared: the statement to add if some validation rows are training rows.
    """
    common: dict[str, Any] = {"versions": versions(), "python": platform.python_version(), "precision": precision}
    if spec.canaries:
        common["canaries"] = f"{spec.canaries} {CANARIES}"
    if plan.budget is None:
        statement = f"{NOT_PRIVATE}: trained without clipping and noise, for comparison only."
        return {"private": False, "statement": statement, "units": units, **common}
    return {
        "private": True,
        "statement": promise(spec, plan),
        "epsilon": plan.epsilon_upper,
        "delta": plan.budget.delta,
        "budget": {"epsilon": plan.budget.epsilon, "delta": plan.budget.delta},
        "adjacency": adjacency(spec),
        "unit": spec.unit,
        "max_per_unit": spec.max_per_unit,
        "mechanism": mechanism(spec, plan),
        "sampler": f"Poisson: each {spec.unit} enters each batch by its own coin",
        "rate": plan.rate,
        "noise": plan.noise,
        "clip": plan.clip,
        "expected_batch": plan.expected_batch,
        "steps_planned": plan.steps,
        "steps_charged": charge.steps,
        "accountant": plan.accountant,
        "units": units,
        "randomness": "AES-256-CTR keyed by the operating system; float64 normals",
        "covers": COVERS,
        "does_not_cover": [*_taken(read_from_training), *([shared] if shared else []), *DOES_NOT_COVER],
        "ledger_head": charge.head,
        "population": charge.population,
        **common,
    }


def _taken(what: Sequence[str]) -> list[str]:
    if not what:
        return []
    return [
        f"{' and '.join(what)}: read off the training data and shown as they are, so that a label which one row alone "
        "has tells of that row; --kind and --labels state them beforehand"
    ]


def mechanism(spec: Spec, plan: Plan) -> str:
    """The mechanism of each step, in words."""
    parts = [f"DP-SGD: one clip per {spec.unit}, Gaussian noise (Abadi et al. 2016)"]
    if plan.clipping == "normalise":
        parts.append("every gradient normalised to at most the clip (Bu et al. 2023)")
    if spec.optimizer == "adam_scaled":
        parts.append("clip and noise in a space scaled by earlier releases (Ganesh et al. 2025)")
    return "; ".join(parts)


def promise(spec: Spec, plan: Plan) -> str:
    """The promise of a private run in one sentence."""
    return f"{label(plan)}-differential privacy for {adjacency(spec)}"


def adjacency(spec: Spec) -> str:
    """The neighbouring relation of the promise."""
    if spec.unit == Spec.unit:
        return "adding or removing one example"
    return f"adding or removing all examples of one {spec.unit}"


def label(plan: Plan) -> str:
    """(epsilon, delta) as printed, with epsilon always rounded up; or NOT PRIVATE."""
    if plan.budget is None or plan.epsilon_upper is None:
        return NOT_PRIVATE
    return f"({rounded_up(plan.epsilon_upper)}, {plan.budget.delta!r})"


def versions() -> dict[str, str]:
    """Installed versions of the packages that the promise depends on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
