"""Poisson sampling: each unit enters each batch independently (Abadi et al. 2016, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.randomness import Secret


def poisson_batches(examples: int, plan: Plan, secret: Secret, start: int = 0) -> Iterator[NDArray[np.int64]]:
    """For each step from `start` to `plan.steps`, the unit numbers drawn at rate `plan.rate`: (n,), n may be 0."""
    for _ in range(start, plan.steps):
        yield np.flatnonzero(secret.bernoulli(plan.rate, examples))
