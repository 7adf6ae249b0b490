"""Statistics of released noise and sampled batches, each a value with its acceptance interval.

Every function takes a `risk`: the largest probability that a correct mechanism leaves the interval.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
_FLOAT32 = 2.0**-23


class Measurement(NamedTuple):
    """A value, and the interval that a correct mechanism leaves with probability `risk` at most."""

    value: float
    low: float
    high: float


def deviation(squares: float, count: int, risk: float) -> Measurement:
    """Standard deviation of the noise over the planned one: root of the mean of `count` squares; chi-square."""
    low, high = stats.chi2.ppf(risk / 2, count), stats.chi2.isf(risk / 2, count)
    return Measurement(math.sqrt(squares / count), math.sqrt(low / count), math.sqrt(high / count))


def each_deviation(squares: Floats, count: int, risk: float) -> Measurement:
    """The step whose noise is furthest from the plan, as a share of the allowed distance; chi-square.

    squares: (steps,), each a sum of `count` squares of noise over the planned deviation. The risk is split among steps.
    Noise that is too small at some steps and too large at others can look right on average.
    """
    if not squares.min() > 0:
        return Measurement(math.inf, 0, 1)
    each = risk / len(squares) / 2
    low, high = float(stats.chi2.ppf(each, count)), float(stats.chi2.isf(each, count))
    return Measurement(max(float(squares.max()) / high, low / float(squares.min())), 0, 1)


def amplitude(total: float, drawn: int, noise: float, risk: float) -> Measurement:
    """Mean contribution of a sampled canary, in clips: `total` sums `drawn` values, each 1 plus `noise` normals."""
    margin = float(stats.norm.isf(risk / 2)) * noise / math.sqrt(max(drawn, 1))
    return Measurement(total / max(drawn, 1), 1 - margin, 1 + margin)


def correlation(pairs: Sequence[tuple[Floats, Floats]], risk: float) -> Measurement:
    """The largest |cosine| among pairs of independent normal vectors, as a share of the limit for their length.

    The squared cosine of two in n dimensions is Beta(1/2, (n - 1)/2); the risk is split among the pairs.
    """
    worst = 0.0
    for one, other in pairs:
        length = float(np.linalg.norm(one) * np.linalg.norm(other))
        if length == 0:
            return Measurement(math.inf, 0, 1)
        allowed = math.sqrt(stats.beta.isf(risk / len(pairs), 0.5, (len(one) - 1) / 2))
        worst = max(worst, abs(float(one @ other)) / length / allowed)
    return Measurement(worst, 0, 1)


def between_steps(noise: Floats, risk: float) -> Measurement:
    """`correlation` of every pair of steps. noise: (steps, numbers)."""
    lengths = np.linalg.norm(noise, axis=1)
    if not lengths.all():
        return Measurement(math.inf, 0, 1)
    cosines = np.abs((noise @ noise.T) / np.outer(lengths, lengths))[np.triu_indices(len(noise), 1)]
    allowed = math.sqrt(stats.beta.isf(risk / len(cosines), 0.5, (noise.shape[1] - 1) / 2))
    return Measurement(float(cosines.max()) / allowed, 0, 1)


def between_tensors(parts: Sequence[Floats], risk: float) -> Measurement:
    """`correlation` of the first numbers of every pair of tensors, and of the even and odd numbers of each tensor.

    parts: [(steps, n_i)], one array a tensor.
    """
    pairs = []
    for one, other in itertools.combinations(parts, 2):
        length = min(one.shape[1], other.shape[1])
        pairs.append((one[:, :length].ravel(), other[:, :length].ravel()))
    pairs += [(p[:, : p.shape[1] // 2 * 2 : 2].ravel(), p[:, 1::2].ravel()) for p in parts if p.shape[1] > 1]
    return correlation(pairs, risk)


def normality(noise: Floats, risk: float) -> Measurement:
    """Distance to the standard normal distribution (Kolmogorov-Smirnov)."""
    found = stats.kstest(noise.ravel(), "norm", method="asymp").statistic
    return Measurement(float(found), 0, float(stats.kstwobign.isf(risk) / math.sqrt(noise.size)))


def repetitions(noise: Floats, risk: float) -> Measurement:
    """Number of equal pairs. Noise drawn in bfloat16 has 2^16 times as many as noise drawn in float32.

    Two standard normals in float32 are equal with probability 2^-23 / (2 pi) at most: the integral of squared density
    times spacing. The count is modelled as Poisson with twice that mean, for scales that are no power of two.
    """
    _, counts = np.unique(noise.ravel(), return_counts=True)
    expected = noise.size * (noise.size - 1) / 2 * _FLOAT32 / math.pi
    return Measurement(float((counts * (counts - 1) // 2).sum()), 0, float(stats.poisson.isf(risk, expected)))


def share(drawn: int, coins: int, rate: float, risk: float) -> Measurement:
    """Observed sampling rate: `drawn` of `coins` coins; binomial distribution."""
    low, high = stats.binom.ppf(risk / 2, coins, rate), stats.binom.isf(risk / 2, coins, rate)
    return Measurement(drawn / coins, low / coins, high / coins)


def dispersion(counts: NDArray[Any], trials: int, rate: float, risk: float) -> Measurement:
    """Variance of binomial counts over its expected value; chi-square, widened by the kurtosis of the binomial."""
    variance = trials * rate * (1 - rate)
    found = float(np.square(counts - trials * rate).mean() / variance)
    excess = max(0.0, (1 - 6 * rate * (1 - rate)) / variance)
    freedom = len(counts) / (1 + excess / 2)
    return Measurement(found, *(float(stats.chi2.ppf(p, freedom) / freedom) for p in (risk / 2, 1 - risk / 2)))


def overlap(shared: int, batches: int, rows: int, rate: float, risk: float) -> Measurement:
    """Rows shared by consecutive batches, over the number expected of independent batches; normal.

    Indicators of one row in two overlapping pairs of batches covary by q^3 - q^4.
    """
    pairs = (batches - 1) * rows
    variance = pairs * (rate**2 - rate**4) + 2 * (batches - 2) * rows * (rate**3 - rate**4)
    margin = float(stats.norm.isf(risk / 2)) * math.sqrt(variance) / (pairs * rate**2)
    return Measurement(shared / (pairs * rate**2), 1 - margin, 1 + margin)
