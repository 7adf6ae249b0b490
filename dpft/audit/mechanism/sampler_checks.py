"""The sampler as the run's own plan drives it, on as many rows as the run had: coins only, no model."""

from __future__ import annotations

import dataclasses

import numpy as np

from dpft.audit.evidence import noise_statistics
from dpft.audit.evidence.report import Test
from dpft.audit.mechanism.driver import Path
from dpft.privacy.mechanism.plan import Plan

_COINS = 20_000_000
_LEAST, _MOST = 200, 20_000
_NORMAL = 5.0  # the least variance of counts that are taken as normal


def tests(path: Path, plan: Plan, examples: int) -> list[Test]:
    """Draw many batches and ask whether each row enters each by its own coin at `plan.rate`."""
    steps = int(np.clip(_COINS // examples, _LEAST, _MOST))
    counts, sizes, shared = np.zeros(examples, np.int64), [], 0
    before = np.zeros(examples, bool)
    for rows in path.sampler(examples, dataclasses.replace(plan, steps=steps), path.secret()):
        np.add.at(counts, rows, 1)
        sizes.append(len(rows))
        shared += int(before[rows].sum())
        before[:] = False
        before[rows] = True
    rate, drawn, batches = plan.rate, int(counts.sum()), np.array(sizes)
    if rate == 1:
        return [Test("inclusion rate", lambda risk: noise_statistics.share(drawn, examples * steps, rate, risk))]
    told = f"{steps} batches from {examples} rows"
    found = [Test("inclusion rate", lambda risk: noise_statistics.share(drawn, examples * steps, rate, risk), told)]
    if examples * rate * (1 - rate) >= _NORMAL:
        found.append(
            Test(
                "variance of batch sizes", lambda risk: noise_statistics.dispersion(batches, examples, rate, risk), told
            )
        )
    if steps * rate * (1 - rate) >= _NORMAL:
        found.append(
            Test("variance of a row's draws", lambda risk: noise_statistics.dispersion(counts, steps, rate, risk), told)
        )
    if steps * examples * rate**2 >= 10 * _NORMAL:
        name = "overlap of neighbouring batches"
        found.append(Test(name, lambda risk: noise_statistics.overlap(shared, steps, examples, rate, risk), told))
    return found
