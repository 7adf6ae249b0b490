"""The secret stream: its distributions, its tails, and that it never repeats or leaves the process."""

from __future__ import annotations

import copy
import os
import pickle

import numpy as np
import pytest
from scipy import stats

from dpft.privacy.randomness import Secret


def test_normals_pass_a_kolmogorov_smirnov_test() -> None:
    # Catches a wrong radius or angle, such as a missing factor 2.
    assert stats.kstest(Secret().normal(400_000), "norm").pvalue > 1e-7


def test_normals_have_unit_variance_within_five_standard_errors() -> None:
    drawn = Secret().normal(400_000)
    assert abs(drawn.var() - 1) < 5 * np.sqrt(2 / 400_000)
    assert abs(drawn.mean()) < 5 / np.sqrt(400_000)


class _Words(Secret):
    """A Secret whose words are given: tails that no test could wait for."""

    def __init__(self, words: list[int]) -> None:
        super().__init__()
        self._given = np.array(words, dtype=np.uint64)

    def words(self, count: int) -> np.ndarray:
        assert count == len(self._given)
        return self._given


def test_normals_reach_nine_sigma() -> None:
    # Catches 32-bit uniforms, which stop at 6.7 sigma, and float32 ones, which stop at 5.8.
    assert _Words([0, 0]).normal(1)[0] > 9.4


def test_normals_are_finite_at_both_ends_of_the_words() -> None:
    # Catches log(0) at the word 0, and a radius of NaN at the largest word.
    assert np.isfinite(_Words([0, 2**64 - 1, 2**64 - 1, 0]).normal(4)).all()


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_normals_come_in_the_number_asked_for(count: int) -> None:
    assert Secret().normal(count).shape == (count,)


def test_normals_are_float64() -> None:
    assert Secret().normal(3).dtype == np.float64


@pytest.mark.parametrize("rate", [1e-3, 0.0304, 0.5, 0.999])
def test_coins_come_up_at_their_rate(rate: float) -> None:
    drawn = int(Secret().bernoulli(rate, 400_000).sum())
    assert stats.binomtest(drawn, 400_000, rate).pvalue > 1e-8


def test_coins_never_come_up_more_often_than_their_rate() -> None:
    # A word equal to the threshold is out: `<=` instead of `<` would be turned red here.
    threshold = int(0.25 * 2**64)
    assert _Words([threshold - 1, threshold]).bernoulli(0.25, 2).tolist() == [True, False]


def test_a_rate_of_one_takes_everyone() -> None:
    assert Secret().bernoulli(1.0, 1000).all()


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_a_rate_outside_zero_to_one_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate must lie in"):
        Secret().bernoulli(rate, 3)


def test_two_secrets_share_no_word() -> None:
    # Catches a fixed key or a seed.
    assert not set(Secret().words(1000).tolist()) & set(Secret().words(1000).tolist())


def test_one_secret_does_not_repeat_itself() -> None:
    secret = Secret()
    assert not set(secret.words(1000).tolist()) & set(secret.words(1000).tolist())


def test_a_forked_process_draws_other_words() -> None:
    # Catches a stream that goes on from a copied state: two ranks would share their noise.
    secret = Secret()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, secret.words(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(read, 32), dtype="<u8")
    assert not set(theirs.tolist()) & set(secret.words(4).tolist())


@pytest.mark.parametrize("leave", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_secret_does_not_leave_its_process(leave) -> None:
    with pytest.raises(TypeError, match="must not leave"):
        leave(Secret())


def test_a_secret_does_not_show_itself() -> None:
    assert repr(Secret()) == "Secret(...)"
