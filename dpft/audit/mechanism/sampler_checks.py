"""Tests of the sampler at the run's own plan and number of units: coins only, no model."""

from __future__ import annotations

import dataclasses

import numpy as np

from dpft.audit.evidence import noise_statistics
from dpft.audit.evidence.report import StatisticalTest
from dpft.audit.mechanism.driver import Mechanism
from dpft.privacy.mechanism.plan import Plan

_COINS = 20_000_000
_LEAST, _MOST = 200, 20_000
_NORMAL = 5.0  # smallest variance of counts that are modelled as normal


def tests(mechanism: Mechanism, plan: Plan, examples: int) -> list[StatisticalTest]:
    """Draw many batches and test whether each row enters each batch by its own coin at `plan.rate`."""
    steps = int(np.clip(_COINS // examples, _LEAST, _MOST))
    counts, sizes, shared = np.zeros(examples, np.int64), [], 0
    before = np.zeros(examples, bool)
    for rows in mechanism.sampler(examples, dataclasses.replace(plan, steps=steps), mechanism.secret()):
        np.add.at(counts, rows, 1)
        sizes.append(len(rows))
        shared += int(before[rows].sum())
        before[:] = False
        before[rows] = True
    rate, drawn, batches = plan.rate, int(counts.sum()), np.array(sizes)
    if rate == 1:
        return [
            StatisticalTest("sampling rate", lambda risk: noise_statistics.share(drawn, examples * steps, rate, risk))
        ]
    about = f"{steps} batches from {examples} rows"
    found = [
        StatisticalTest(
            "sampling rate", lambda risk: noise_statistics.share(drawn, examples * steps, rate, risk), about
        )
    ]
    if examples * rate * (1 - rate) >= _NORMAL:
        found.append(
            StatisticalTest(
                "variance of batch sizes",
                lambda risk: noise_statistics.dispersion(batches, examples, rate, risk),
                about,
            )
        )
    if steps * rate * (1 - rate) >= _NORMAL:
        found.append(
            StatisticalTest(
                "variance of a row's draws", lambda risk: noise_statistics.dispersion(counts, steps, rate, risk), about
            )
        )
    if steps * examples * rate**2 >= 10 * _NORMAL:
        name = "overlap of neighbouring batches"
        found.append(
            StatisticalTest(name, lambda risk: noise_statistics.overlap(shared, steps, examples, rate, risk), about)
        )
    return found
