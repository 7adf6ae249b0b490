"""Poisson batches: every row by its own coin, every planned step, nothing else."""

from __future__ import annotations

import numpy as np
from scipy import stats

from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.mechanism.poisson_sampler import poisson_batches
from dpft.privacy.randomness import Secret
from dpft.spec import Budget


def plan(rate: float, steps: int) -> Plan:
    return Plan(rate, steps, 1.0, 1.0, 100, Budget(8.0, 1e-6), 7.9, "test")


def test_there_are_as_many_batches_as_steps_left() -> None:
    assert len(list(poisson_batches(50, plan(0.1, 9), Secret()))) == 9
    assert len(list(poisson_batches(50, plan(0.1, 9), Secret(), start=7))) == 2
    assert not list(poisson_batches(50, plan(0.1, 9), Secret(), start=9))


def test_batch_sizes_vary_as_a_binomial() -> None:
    # Catches shuffling into batches of one size, which is accounted as Poisson but is not.
    sizes = np.array([len(b) for b in poisson_batches(1000, plan(0.1, 2000), Secret())])
    assert abs(sizes.mean() - 100) < 5 * np.sqrt(90 / 2000)
    assert abs(sizes.var() - 90) < 5 * 90 * np.sqrt(2 / 2000)


def test_every_row_is_drawn_alike_and_independently() -> None:
    # Catches sampling without replacement across steps: a row drawn once would wait for its next epoch.
    drawn = np.zeros((2000, 20), dtype=int)
    for step, batch in enumerate(poisson_batches(20, plan(0.3, 2000), Secret())):
        drawn[step, batch] = 1
    assert stats.chisquare(drawn.sum(0)).pvalue > 1e-5
    again, q = (drawn[1:] & drawn[:-1]).sum(), 0.3
    variance = 20 * (1999 * (q**2 - q**4) + 2 * 1998 * (q**3 - q**4))  # a row's overlapping pairs covary
    assert abs(again - 1999 * 20 * q**2) < 5 * np.sqrt(variance)


def test_a_batch_may_be_empty() -> None:
    assert min(len(b) for b in poisson_batches(5, plan(0.01, 100), Secret())) == 0
