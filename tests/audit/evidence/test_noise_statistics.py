"""Intervals that hold as often as stated, on the distributions that they are meant for; and each can be left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from dpft.audit.evidence import noise_statistics
from dpft.audit.evidence.noise_statistics import Measurement

RISK, RUNS = 0.05, 400
Draw = Callable[[np.random.Generator], Measurement]


def outside(found: Measurement) -> bool:
    return not found.low <= found.value <= found.high


def normals(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


def batches(rng: np.random.Generator, rate: float = 0.1) -> np.ndarray:
    return rng.random((40, 300)) < rate


def shared(coins: np.ndarray) -> int:
    return int((coins[1:] & coins[:-1]).sum())


SOUND: dict[str, Draw] = {
    "deviation": lambda rng: noise_statistics.deviation(float(np.square(normals(rng, 50)).sum()), 50, RISK),
    "each": lambda rng: noise_statistics.each_deviation(np.square(normals(rng, 12, 50)).sum(1), 50, RISK),
    "amplitude": lambda rng: noise_statistics.amplitude(float((1 + 0.7 * normals(rng, 30)).sum()), 30, 0.7, RISK),
    "steps": lambda rng: noise_statistics.between_steps(normals(rng, 12, 40), RISK),
    "tensors": lambda rng: noise_statistics.between_tensors([normals(rng, 5, 9), normals(rng, 5, 4)], RISK),
    "normality": lambda rng: noise_statistics.normality(normals(rng, 20, 100), RISK),
    "repetitions": lambda rng: noise_statistics.repetitions(normals(rng, 8000).astype(np.float32), RISK),
    "share": lambda rng: noise_statistics.share(int(batches(rng).sum()), 12_000, 0.1, RISK),
    "sizes": lambda rng: noise_statistics.dispersion(batches(rng).sum(1), 300, 0.1, RISK),
    "draws": lambda rng: noise_statistics.dispersion(batches(rng).sum(0), 40, 0.1, RISK),
    "overlap": lambda rng: noise_statistics.overlap(shared(batches(rng)), 40, 300, 0.1, RISK),
}
BROKEN: dict[str, Draw] = {
    "deviation": lambda rng: noise_statistics.deviation(float(np.square(normals(rng, 400) / 1.3).sum()), 400, RISK),
    "each": lambda rng: noise_statistics.each_deviation(
        np.square(normals(rng, 12, 400) * np.tile([0.77, 1.19], 6)[:, None]).sum(1), 400, RISK
    ),  # one over all of them, nearly
    "amplitude": lambda rng: noise_statistics.amplitude(float((0.5 + 0.7 * normals(rng, 90)).sum()), 90, 0.7, RISK),
    "steps": lambda rng: noise_statistics.between_steps(np.tile(normals(rng, 6, 40), (2, 1)), RISK),
    "tensors": lambda rng: noise_statistics.between_tensors([(one := normals(rng, 9, 4)), one[:, :3]], RISK),
    "normality": lambda rng: noise_statistics.normality(rng.uniform(-(3**0.5), 3**0.5, (20, 100)), RISK),
    "repetitions": lambda rng: noise_statistics.repetitions(normals(rng, 400).astype(np.float16), RISK),
    "share": lambda rng: noise_statistics.share(int(batches(rng, 0.12).sum()), 12_000, 0.1, RISK),
    "sizes": lambda _: noise_statistics.dispersion(np.full(40, 30), 300, 0.1, RISK),
    "draws": lambda _: noise_statistics.dispersion(np.full(300, 4), 40, 0.1, RISK),
    "overlap": lambda _: noise_statistics.overlap(0, 40, 300, 0.1, RISK),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_path_leaves_the_interval_no_more_often_than_stated(name: str) -> None:
    # Catches a one-sided limit at twice the risk, a variance that forgets a term, degrees of freedom off by a factor.
    rng = np.random.default_rng(7)
    assert sum(outside(SOUND[name](rng)) for _ in range(RUNS)) <= stats.binom.ppf(0.9999, RUNS, RISK)


@pytest.mark.parametrize("name", ["deviation", "each", "amplitude", "share", "sizes", "draws", "overlap", "steps"])
def test_the_interval_is_no_wider_than_it_must_be(name: str) -> None:
    # An interval that nothing leaves would pass the test above.
    rng = np.random.default_rng(8)
    assert sum(outside(SOUND[name](rng)) for _ in range(RUNS)) >= stats.binom.ppf(0.0001, RUNS, RISK / 2)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_path_leaves_it(name: str) -> None:
    rng = np.random.default_rng(9)
    assert sum(outside(BROKEN[name](rng)) for _ in range(20)) >= 18


def test_numbers_that_are_all_zero_are_like_anything() -> None:
    assert outside(noise_statistics.between_steps(np.zeros((3, 4)), RISK))
    assert outside(noise_statistics.correlation([(np.zeros(4), np.ones(4))], RISK))


def test_a_step_without_noise_is_outside() -> None:
    assert outside(noise_statistics.each_deviation(np.array([50.0, 0.0]), 50, RISK))
